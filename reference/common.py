"""What the scripts share: loading a checkpoint by its own class, padded batches, reference tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

HEAD_OUTPUTS = ("logits", "slot_logits", "start_logits", "end_logits")


def model_class(config: transformers.PretrainedConfig) -> Any:
    """The class that `config.json` names; the bare encoder where it names none."""
    if config.architectures:
        return getattr(transformers, config.architectures[0])
    return transformers.AutoModel


def load_model(folder: str, *, unused_is_an_error: bool) -> transformers.PreTrainedModel:
    """Loads with the class the folder names, in float32, dropout off; a tensor it lacks is an error."""
    config = transformers.AutoConfig.from_pretrained(folder)
    model, info = model_class(config).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    unused = {} if unused_is_an_error else {"unexpected_keys"}
    if problems := {kind: sorted(map(str, found)) for kind, found in info.items() if found and kind not in unused}:
        raise SystemExit(f"{folder}: {problems}")
    return model.eval()


def has_token_types(config: transformers.PretrainedConfig) -> bool:
    return getattr(config, "type_vocab_size", 0) > 1


def longest_sequence(config: transformers.PretrainedConfig) -> int:
    """RoBERTa's positions are counted behind the padding token's."""
    behind = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta") else 0
    return config.max_position_embeddings - behind


def pad(sequences: list[list[int]], pad_id: int) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` (1 = real token), both `[batch, longest]`."""
    longest = max(map(len, sequences))
    return {
        "input_ids": torch.tensor([ids + [pad_id] * (longest - len(ids)) for ids in sequences]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in sequences]),
    }


def random_inputs(
    config: transformers.PretrainedConfig, batch: int, longest: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Ids from 5 up in sequences of 3 to `longest` tokens, one of them full; the second half is segment 1."""
    lengths = [longest] + torch.randint(3, longest, (batch - 1,), generator=generator).tolist()
    ids = [torch.randint(5, config.vocab_size, (length,), generator=generator).tolist() for length in lengths]
    inputs = pad(ids, config.pad_token_id or 0)
    if has_token_types(config):
        positions = torch.arange(longest)
        halves = torch.tensor(lengths)[:, None] // 2
        inputs["token_type_ids"] = (positions >= halves).long() * inputs["attention_mask"]
    return inputs


@torch.no_grad()
def reference_tensors(model: transformers.PreTrainedModel, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`input.*`, `hidden.0` (embedding output) to `hidden.N`, and what the head gives."""
    output = model(**inputs, output_hidden_states=True)
    tensors = {f"input.{name}": tensor for name, tensor in inputs.items()}
    tensors |= {f"hidden.{i}": states for i, states in enumerate(output.hidden_states)}
    return tensors | {name: output[name] for name in HEAD_OUTPUTS if name in output}


def save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes each tensor with its own memory (a safetensors file may not hold views of one storage)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, path)
