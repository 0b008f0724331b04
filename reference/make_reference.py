"""Makes a reference file from any PyTorch checkpoint of the families read here, for `distilbert verify`.

It holds `input.*`, `hidden.0` to `hidden.N` and what the head gives (`logits`, or `start_logits` and `end_logits`).
"""

import argparse
from pathlib import Path

import torch
import transformers as hf
from torch import Tensor

from common import load_model, longest_sequence, random_inputs, reference_tensors, save


def tokenized(model: str, config: hf.PretrainedConfig, lines: list[str], pairs: bool) -> dict[str, Tensor]:
    """One sequence a line; with `pairs`, a line is two texts with a tab between."""
    tokenizer = hf.AutoTokenizer.from_pretrained(model)
    texts = [line.split("\t", 1) for line in lines] if pairs else [[line] for line in lines]
    columns = [list(column) for column in zip(*texts, strict=True)]
    limit = longest_sequence(config)
    return dict(tokenizer(*columns, padding=True, truncation=True, max_length=limit, return_tensors="pt"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a Hugging Face folder, or a name that transformers can resolve")
    parser.add_argument("out", type=Path, help="the safetensors file to write")
    parser.add_argument("--texts", type=Path, help="UTF-8 text, a sequence a line; random ids without it")
    parser.add_argument("--pairs", action="store_true", help="a line of --texts is two texts with a tab between")
    parser.add_argument("--batch", type=int, default=4, help="random sequences (default %(default)s)")
    parser.add_argument("--longest", type=int, default=21, help="tokens of the longest of them (default %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="of the random ids (default %(default)s)")
    arguments = parser.parse_args()
    if arguments.pairs and not arguments.texts:
        parser.error("--pairs needs --texts")

    model = load_model(arguments.model, unused_is_an_error=False)
    if arguments.texts:
        lines = arguments.texts.read_text(encoding="utf-8").splitlines()
        inputs = tokenized(arguments.model, model.config, lines, arguments.pairs)
    else:
        generator = torch.Generator().manual_seed(arguments.seed)
        inputs = random_inputs(model.config, arguments.batch, arguments.longest, generator)
    tensors = reference_tensors(model, inputs)
    save(arguments.out, tensors)
    print(f"{arguments.out}: {type(model).__name__}, {', '.join(tensors)}")


if __name__ == "__main__":
    main()
