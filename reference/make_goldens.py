"""Makes the fixtures of crates/distilbert/tests/goldens: tiny random models and PyTorch's numbers for them.

Prints, as a Markdown table, the error that float32 PyTorch itself has against float64, in the measures
of the tolerances (see the goldens' README).
"""

import argparse
import copy
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor

from common import HEAD_OUTPUTS, model_class, random_inputs, reference_tensors, save

LONGEST = 13
MASK_ID = 4
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """Odd on purpose: no width is a multiple of a SIMD register.

    `narrow` is the width of embedding tables that may be narrower than the states. `spread` multiplies the usual
    initial weights of the layers, `spread_outside` those of embeddings and heads.
    """

    hidden: int
    narrow: int
    heads: int
    ffn: int
    vocab: int
    positions: int
    spread: float
    spread_outside: float

    def bert(self, layers: int, **options: Any) -> hf.BertConfig:
        return hf.BertConfig(
            vocab_size=self.vocab, hidden_size=self.hidden, num_attention_heads=self.heads,
            intermediate_size=self.ffn, max_position_embeddings=self.positions, num_hidden_layers=layers, **options,
        )  # fmt: skip

    def distilbert(self, layers: int = 2, **options: Any) -> hf.DistilBertConfig:
        return hf.DistilBertConfig(
            vocab_size=self.vocab, dim=self.hidden, n_heads=self.heads,
            hidden_dim=self.ffn, max_position_embeddings=self.positions, n_layers=layers, **options,
        )  # fmt: skip

    def roberta(self, config: type[hf.RobertaConfig], layers: int = 2, **options: Any) -> hf.RobertaConfig:
        """Positions begin behind the padding token's; eps and token types are those of the published models."""
        return config(
            vocab_size=self.vocab, hidden_size=self.hidden, num_attention_heads=self.heads,
            intermediate_size=self.ffn, max_position_embeddings=self.positions, num_hidden_layers=layers,
            type_vocab_size=1, layer_norm_eps=1e-5, **options,
        )  # fmt: skip

    def electra(self, layers: int = 2, **options: Any) -> hf.ElectraConfig:
        sizes = {"embedding_size": self.narrow, "hidden_size": self.hidden} | options
        return hf.ElectraConfig(
            vocab_size=self.vocab, num_attention_heads=self.heads, intermediate_size=self.ffn,
            max_position_embeddings=self.positions, num_hidden_layers=layers, **sizes,
        )  # fmt: skip

    def albert(self, layers: int = 3, **options: Any) -> hf.AlbertConfig:
        return hf.AlbertConfig(
            vocab_size=self.vocab, embedding_size=self.narrow, hidden_size=self.hidden, num_attention_heads=self.heads,
            intermediate_size=self.ffn, max_position_embeddings=self.positions, num_hidden_layers=layers, **options,
        )  # fmt: skip


# Layers spread so far that attention is sharp; embeddings so little that the epsilon of their norm counts.
FORWARD = Sizes(hidden=21, narrow=11, heads=3, ffn=29, vocab=53, positions=18, spread=12.0, spread_outside=2.0)
# Smaller, because a training golden holds the parameters, their gradients and, in a run, each step's. Spread less:
# `k_lin.bias` has no gradient but rounding, which grows with the spread, and must stay far below the tolerance's floor.
TRAINING = Sizes(hidden=15, narrow=9, heads=3, ffn=22, vocab=47, positions=16, spread=4.0, spread_outside=4.0)
NO_DROPOUT_BERT: dict[str, Any] = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout": 0.0,
}
NO_DROPOUT_DISTILBERT: dict[str, Any] = {
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "seq_classif_dropout": 0.0,
    "qa_dropout": 0.0,
}


@dataclass
class Goldens:
    """Where the fixtures go, and what float32 lost in each."""

    out: Path
    seed: int
    errors: dict[str, dict[str, float]] = field(default_factory=dict)

    def begin(self, name: str) -> torch.Generator:
        """Seeds by name, so that a new golden leaves the others as they are."""
        seed = self.seed + zlib.crc32(name.encode())
        torch.manual_seed(seed)
        return torch.Generator().manual_seed(seed)

    def record(self, name: str, single: Tensors, double: Tensors) -> None:
        """Keeps the worst error of each kind; `double` holds the same tensors computed in float64."""
        gradients = {key for key in single if key.startswith("grad.")}
        total = torch.stack([double[key].norm() for key in gradients]).norm() if gradients else torch.tensor(0.0)
        # Shifting all logits of a text alike changes no span: the gradients of the last biases are whole softmaxes'
        # rounding.
        floor = 1e-3 if any("qa_outputs" in key for key in gradients) else 1e-6
        worst = self.errors.setdefault(name, {})
        for key, tensor in single.items():
            if key.startswith("input.") or not tensor.is_floating_point():
                continue
            difference = tensor.double() - double[key]
            if key in gradients:
                kind, error = "gradients", difference.norm() / torch.maximum(double[key].norm(), floor * total)
            else:
                kind, error = "values", difference.abs().max() / double[key].abs().max()
            worst[kind] = max(worst.get(kind, 0.0), error.item())

    def report(self) -> str:
        lines = ["| golden | activations and parameters | gradients |", "| --- | --- | --- |"]
        for name, worst in self.errors.items():
            cells = [f"{worst[kind]:.1e}" if kind in worst else "" for kind in ("values", "gradients")]
            lines.append(f"| `{name}` | {cells[0]} | {cells[1]} |")
        return "\n".join(lines)


def spice(model: hf.PreTrainedModel, sizes: Sizes) -> hf.PreTrainedModel:
    """Biases and norms that are not 0 and 1, larger weights: ignoring any of them shows."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                in_layer = ".layer." in name or ".albert_layers." in name
                parameter.mul_(sizes.spread if in_layer else sizes.spread_outside)
    model.set_attn_implementation("eager")
    return model.eval()


def as_double(model: hf.PreTrainedModel) -> hf.PreTrainedModel:
    return copy.deepcopy(model).double()


def forward(goldens: Goldens, name: str, make: Callable[[], hf.PreTrainedModel]) -> hf.PreTrainedModel:
    """A folder and the hidden states and logits of one ragged batch."""
    generator = goldens.begin(name)
    model = spice(make(), FORWARD)
    inputs = random_inputs(model.config, 3, LONGEST, generator)
    expected = reference_tensors(model, inputs)
    goldens.record(name, expected, reference_tensors(as_double(model), inputs))
    model.save_pretrained(goldens.out / name)
    save(goldens.out / name / "expected.safetensors", expected)
    return model


def forward_goldens(goldens: Goldens) -> None:
    s = FORWARD
    bert_mlm = forward(goldens, "bert-mlm", lambda: hf.BertForMaskedLM(s.bert(3)))
    pickled(goldens, bert_mlm)
    legacy(goldens)
    forward(goldens, "bert-base-nohead", lambda: hf.BertModel(s.bert(2)))
    forward(goldens, "bert-classify", lambda: hf.BertForSequenceClassification(s.bert(2, num_labels=3)))
    distilbert_mlm = forward(goldens, "distilbert-mlm", lambda: hf.DistilBertForMaskedLM(s.distilbert()))
    sharded(goldens, distilbert_mlm)
    forward(goldens, "distilbert-nohead", lambda: hf.DistilBertModel(s.distilbert()))
    forward(goldens, "distilbert-sinusoidal", lambda: hf.DistilBertForMaskedLM(s.distilbert(sinusoidal_pos_embds=True)))
    forward(goldens, "distilbert-classify", lambda: hf.DistilBertForSequenceClassification(s.distilbert(num_labels=3)))
    forward(goldens, "distilbert-regress", lambda: hf.DistilBertForSequenceClassification(s.distilbert(num_labels=1)))
    forward(goldens, "bert-tokens", lambda: hf.BertForTokenClassification(s.bert(2, num_labels=5)))
    forward(goldens, "bert-qa", lambda: hf.BertForQuestionAnswering(s.bert(2)))
    forward(goldens, "distilbert-tokens", lambda: hf.DistilBertForTokenClassification(s.distilbert(num_labels=5)))
    forward(goldens, "distilbert-qa", lambda: hf.DistilBertForQuestionAnswering(s.distilbert()))


def family_goldens(goldens: Goldens) -> None:
    """RoBERTa, XLM-R, ELECTRA and ALBERT with each of their heads."""
    s = FORWARD
    roberta, xlm = s.roberta(hf.RobertaConfig), s.roberta(hf.XLMRobertaConfig)
    forward(goldens, "roberta-nohead", lambda: hf.RobertaModel(roberta))
    forward(goldens, "roberta-mlm", lambda: hf.RobertaForMaskedLM(roberta))
    labels = {"num_labels": 3}
    forward(
        goldens, "roberta-classify", lambda: hf.RobertaForSequenceClassification(s.roberta(hf.RobertaConfig, **labels))
    )
    forward(
        goldens, "roberta-tokens", lambda: hf.RobertaForTokenClassification(s.roberta(hf.RobertaConfig, num_labels=5))
    )
    forward(goldens, "roberta-qa", lambda: hf.RobertaForQuestionAnswering(roberta))
    forward(goldens, "xlm-roberta-mlm", lambda: hf.XLMRobertaForMaskedLM(xlm))
    tags = s.roberta(hf.XLMRobertaConfig, num_labels=5)
    forward(goldens, "xlm-roberta-tokens", lambda: hf.XLMRobertaForTokenClassification(tags))
    forward(goldens, "electra-nohead", lambda: hf.ElectraModel(s.electra(embedding_size=s.hidden)))
    forward(goldens, "electra-mlm", lambda: hf.ElectraForMaskedLM(s.electra()))
    forward(goldens, "electra-classify", lambda: hf.ElectraForSequenceClassification(s.electra(**labels)))
    forward(goldens, "electra-tokens", lambda: hf.ElectraForTokenClassification(s.electra(num_labels=5)))
    forward(goldens, "electra-qa", lambda: hf.ElectraForQuestionAnswering(s.electra()))
    forward(goldens, "albert-nohead", lambda: hf.AlbertModel(s.albert(4, num_hidden_groups=2)))
    forward(goldens, "albert-mlm", lambda: hf.AlbertForMaskedLM(s.albert()))
    forward(goldens, "albert-classify", lambda: hf.AlbertForSequenceClassification(s.albert(**labels)))
    forward(goldens, "albert-tokens", lambda: hf.AlbertForTokenClassification(s.albert(num_labels=5)))
    forward(goldens, "albert-qa", lambda: hf.AlbertForQuestionAnswering(s.albert()))


def pickled(goldens: Goldens, model: hf.PreTrainedModel) -> None:
    """The weights of `bert-mlm` as `pytorch_model.bin`: tied tensors share a storage, one is stored transposed."""
    folder = goldens.out / "bert-mlm-pickled"
    model.config.save_pretrained(folder)
    state = model.state_dict()
    query = "bert.encoder.layer.0.attention.self.query.weight"
    state[query] = state[query].t().contiguous().t()
    torch.save(state, folder / "pytorch_model.bin")
    save(folder / "expected.safetensors", load_file(goldens.out / "bert-mlm" / "expected.safetensors"))


def legacy(goldens: Goldens) -> None:
    """Named as the first BERT files were: gamma and beta, a `position_ids` buffer, unused heads, no tied decoder."""
    name = "bert-mlm-legacy"
    generator = goldens.begin(name)
    pretraining = spice(hf.BertForPreTraining(FORWARD.bert(2)), FORWARD)
    model = hf.BertForMaskedLM(FORWARD.bert(2, architectures=["BertForMaskedLM"], attn_implementation="eager"))
    model.load_state_dict({k: v for k, v in pretraining.state_dict().items() if k in model.state_dict()})
    model.eval()
    inputs = random_inputs(model.config, 3, LONGEST, generator)
    expected = reference_tensors(model, inputs)
    goldens.record(name, expected, reference_tensors(as_double(model), inputs))

    state = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in pretraining.state_dict().items()
        if not key.startswith("cls.predictions.decoder.")
    }
    state["bert.embeddings.position_ids"] = torch.arange(FORWARD.positions)[None]
    model.config.save_pretrained(goldens.out / name)
    save_file(state, goldens.out / name / "model.safetensors", metadata={"format": "pt"})
    save(goldens.out / name / "expected.safetensors", expected)


def sharded(goldens: Goldens, model: hf.PreTrainedModel) -> None:
    """The weights of `distilbert-mlm` in two files and an index."""
    folder = goldens.out / "distilbert-mlm-sharded"
    model.save_pretrained(folder, max_shard_size="30KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) == 2, shards
    save(folder / "expected.safetensors", load_file(goldens.out / "distilbert-mlm" / "expected.safetensors"))


def gradients(
    goldens: Goldens,
    name: str,
    make: Callable[[], hf.PreTrainedModel],
    make_labels: Callable[[Tensors, torch.Generator], Tensors],
    loss_of: Callable[[Any, Tensors, Tensors], Tensor] | None = None,
) -> None:
    """A folder, one labelled batch, its loss, logits and the gradient of every parameter.

    The loss is the model's own unless `loss_of(output, inputs, labels)` is given.
    """
    generator = goldens.begin(name)
    model = spice(make(), TRAINING)
    inputs = random_inputs(model.config, 5, LONGEST, generator)
    labels = make_labels(inputs, generator)

    def expected(model: hf.PreTrainedModel) -> Tensors:
        cast = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in labels.items()}
        output = model(**inputs) if loss_of else model(**inputs, **cast)
        loss = loss_of(output, inputs, cast) if loss_of else output.loss
        loss.backward()
        tensors = {f"input.{k}": v for k, v in inputs.items()} | cast | {"loss": loss}
        tensors |= {name: output[name] for name in HEAD_OUTPUTS if name in output}
        return tensors | {f"grad.{n}": p.grad for n, p in model.named_parameters() if p.grad is not None}

    double = expected(as_double(model))
    single = expected(model)
    goldens.record(name, single, double)
    model.save_pretrained(goldens.out / name)
    save(goldens.out / name / "expected.safetensors", single)


def intents_and_slots(base: type[hf.PreTrainedModel]) -> type[hf.PreTrainedModel]:
    """The classifier `base` with a second head, a linear that gives each token a slot; the loss is the sum of both."""

    class WithSlots(base):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.slot_classifier = torch.nn.Linear(config.hidden_size, len(config.slot_labels))
            self.post_init()

        def forward(self, *args: Any, **inputs: Any) -> Any:
            output = super().forward(*args, **inputs, output_hidden_states=True)
            output["slot_logits"] = self.slot_classifier(output.hidden_states[-1])
            return output

    WithSlots.__name__ = base.__name__.replace("SequenceClassification", "IntentsAndSlots")
    return WithSlots


def masked_labels(inputs: Tensors, share: float, generator: torch.Generator) -> Tensor:
    """The ids at about `share` of the real positions, at the second token of the first sequence always; else -100."""
    ids = inputs["input_ids"]
    chosen = (torch.rand(ids.shape, generator=generator) < share) & inputs["attention_mask"].bool()
    chosen[0, 1] = True
    return torch.where(chosen, ids, -100)


def finetune_goldens(goldens: Goldens) -> None:
    def classifier(labels: int, problem: str) -> Callable[[], hf.PreTrainedModel]:
        config = TRAINING.distilbert(num_labels=labels, problem_type=problem, **NO_DROPOUT_DISTILBERT)
        return lambda: hf.DistilBertForSequenceClassification(config)

    def bert(make: Callable[[hf.BertConfig], hf.PreTrainedModel], **options: Any) -> Callable[[], hf.PreTrainedModel]:
        return lambda: make(TRAINING.bert(2, **NO_DROPOUT_BERT, **options))

    def distilbert(make: Callable[..., hf.PreTrainedModel], **options: Any) -> Callable[[], hf.PreTrainedModel]:
        return lambda: make(TRAINING.distilbert(**NO_DROPOUT_DISTILBERT, **options))

    def classes(inputs: Tensors, generator: torch.Generator) -> Tensors:
        return {"labels": torch.randint(0, 3, (len(inputs["input_ids"]),), generator=generator)}

    def several(inputs: Tensors, generator: torch.Generator) -> Tensors:
        return {"labels": (torch.rand(len(inputs["input_ids"]), 4, generator=generator) < 0.4).float()}

    def scores(inputs: Tensors, generator: torch.Generator) -> Tensors:
        return {"labels": torch.rand(len(inputs["input_ids"]), generator=generator) * 5}

    def with_teacher(inputs: Tensors, generator: torch.Generator) -> Tensors:
        labels = classes(inputs, generator)
        return labels | {"teacher_logits": torch.randn(len(labels["labels"]), 3, generator=generator) * 2}

    def masked(inputs: Tensors, generator: torch.Generator) -> Tensors:
        return {"labels": masked_labels(inputs, 0.25, generator)}

    soft = {"temperature": 3.0, "alpha_hard": 0.5, "alpha_soft": 0.5, "alpha_mse": 0.125}

    def squares(logits: Tensor, teacher: Tensor) -> Tensor:
        return (logits - teacher).square().sum(-1)

    def soft_loss(output: Any, _inputs: Tensors, labels: Tensors) -> Tensor:
        """Means over the rows (texts or tokens) that have a label."""
        labelled = labels["labels"] >= 0
        logits, teacher = output.logits[labelled], labels["teacher_logits"][labelled]
        hard = F.cross_entropy(logits, labels["labels"][labelled])
        kl = kl_rows(logits, teacher, soft["temperature"]).mean()
        mse = squares(logits, teacher).mean()
        return soft["alpha_hard"] * hard + soft["alpha_soft"] * kl + soft["alpha_mse"] * mse

    def tags(inputs: Tensors, generator: torch.Generator) -> Tensors:
        ids = inputs["input_ids"]
        labelled = masked_labels(inputs, 0.6, generator) >= 0
        return {"labels": torch.where(labelled, torch.randint(0, 5, ids.shape, generator=generator), -100)}

    def tags_with_teacher(inputs: Tensors, generator: torch.Generator) -> Tensors:
        labels = tags(inputs, generator)
        return labels | {"teacher_logits": torch.randn(*labels["labels"].shape, 5, generator=generator) * 2}

    def spans(inputs: Tensors, generator: torch.Generator) -> Tensors:
        """Start and end, in the last sequence outside of it."""
        lengths = inputs["attention_mask"].sum(1)
        start = (torch.rand(len(lengths), generator=generator) * lengths).long()
        end = start + (torch.rand(len(lengths), generator=generator) * (lengths - start)).long()
        start[-1] = end[-1] = LONGEST
        return {"start_positions": start, "end_positions": end}

    def spans_with_teacher(inputs: Tensors, generator: torch.Generator) -> Tensors:
        shape = inputs["input_ids"].shape
        teacher = {f"teacher_{side}_logits": torch.randn(shape, generator=generator) * 2 for side in ("start", "end")}
        return spans(inputs, generator) | teacher

    def span_loss(output: Any, inputs: Tensors, labels: Tensors) -> Tensor:
        """As the class's own, but padding takes no part in the distributions (the class's own gives it a share)."""
        padding = inputs["attention_mask"] == 0
        losses = []
        for side in ("start", "end"):
            logits = output[f"{side}_logits"].masked_fill(padding, float("-inf"))
            losses.append(F.cross_entropy(logits, labels[f"{side}_positions"], ignore_index=LONGEST))
        return torch.stack(losses).mean()

    def soft_span_loss(output: Any, inputs: Tensors, labels: Tensors) -> Tensor:
        kl, mse = [], []
        for side in ("start", "end"):
            student, teacher = output[f"{side}_logits"], labels[f"teacher_{side}_logits"]
            lengths = inputs["attention_mask"].sum(1).tolist()
            pairs = [(student[i, :n], teacher[i, :n]) for i, n in enumerate(lengths)]
            kl.append(torch.stack([kl_rows(*pair, soft["temperature"]) for pair in pairs]).mean())
            mse.append(torch.stack([squares(*pair) for pair in pairs]).mean())
        hard = span_loss(output, inputs, labels)
        of_teacher = soft["alpha_soft"] * torch.stack(kl).mean() + soft["alpha_mse"] * torch.stack(mse).mean()
        return soft["alpha_hard"] * hard + of_teacher

    def intents(inputs: Tensors, generator: torch.Generator) -> Tensors:
        """The last sequence has no intent, as a later window of a long utterance."""
        labels = tags(inputs, generator)
        of_texts = classes(inputs, generator)["labels"]
        of_texts[-1] = -100
        return {"labels": of_texts, "slot_labels": labels["labels"]}

    def intents_with_teacher(inputs: Tensors, generator: torch.Generator) -> Tensors:
        labels = intents(inputs, generator)
        teacher = torch.randn(len(labels["labels"]), 3, generator=generator) * 2
        of_tokens = torch.randn(*labels["slot_labels"].shape, 5, generator=generator) * 2
        return labels | {"teacher_logits": teacher, "teacher_slot_logits": of_tokens}

    def both_losses(output: Any, _inputs: Tensors, labels: Tensors) -> Tensor:
        of_texts = F.cross_entropy(output.logits, labels["labels"])
        return of_texts + F.cross_entropy(output.slot_logits.flatten(0, 1), labels["slot_labels"].flatten())

    def both_soft_losses(output: Any, inputs: Tensors, labels: Tensors) -> Tensor:
        kl = mse = 0
        for of, teacher in (("", "teacher_"), ("slot_", "teacher_slot_")):
            labelled = labels[f"{of}labels"] >= 0
            rows = output[f"{of}logits"][labelled], labels[f"{teacher}logits"][labelled]
            kl = kl + kl_rows(*rows, soft["temperature"]).mean()
            mse = mse + squares(*rows).mean()
        of_teacher = soft["alpha_soft"] * kl + soft["alpha_mse"] * mse
        return soft["alpha_hard"] * both_losses(output, inputs, labels) + of_teacher

    def family(make: Callable[..., hf.PreTrainedModel], config: Callable[..., Any], **options: Any) -> Any:
        return lambda: make(config(**NO_DROPOUT_BERT, **options))

    def roberta(config: type[hf.RobertaConfig]) -> Callable[..., hf.RobertaConfig]:
        return lambda **options: TRAINING.roberta(config, **options)

    def albert(**options: Any) -> hf.AlbertConfig:
        return TRAINING.albert(classifier_dropout_prob=options.pop("classifier_dropout"), **options)

    single = "single_label_classification"
    gradients(goldens, "finetune-classify", classifier(3, single), classes)
    gradients(goldens, "finetune-multilabel", classifier(4, "multi_label_classification"), several)
    gradients(goldens, "finetune-regress", classifier(1, "regression"), scores)
    gradients(goldens, "finetune-soft-labels", classifier(3, single), with_teacher, soft_loss)
    write_json(goldens.out / "finetune-soft-labels" / "meta.json", soft)
    tagger = distilbert(hf.DistilBertForTokenClassification, num_labels=5)
    answerer = distilbert(hf.DistilBertForQuestionAnswering)
    gradients(goldens, "finetune-tokens", tagger, tags)
    gradients(goldens, "finetune-bert-tokens", bert(hf.BertForTokenClassification, num_labels=5), tags)
    gradients(goldens, "finetune-tokens-soft-labels", tagger, tags_with_teacher, soft_loss)
    gradients(goldens, "finetune-qa", answerer, spans, span_loss)
    gradients(goldens, "finetune-bert-qa", bert(hf.BertForQuestionAnswering), spans, span_loss)
    gradients(goldens, "finetune-qa-soft-labels", answerer, spans_with_teacher, soft_span_loss)
    slots = {"num_labels": 3, "slot_labels": ["O", "B-a", "I-a", "B-b", "I-b"]}
    both = distilbert(intents_and_slots(hf.DistilBertForSequenceClassification), **slots)
    gradients(goldens, "finetune-intents", both, intents, both_losses)
    gradients(goldens, "finetune-intents-soft-labels", both, intents_with_teacher, both_soft_losses)
    bert_both = bert(intents_and_slots(hf.BertForSequenceClassification), **slots)
    gradients(goldens, "finetune-bert-intents", bert_both, intents, both_losses)
    for name in ("finetune-tokens-soft-labels", "finetune-qa-soft-labels", "finetune-intents-soft-labels"):
        write_json(goldens.out / name / "meta.json", soft)
    bert_classifier = bert(hf.BertForSequenceClassification, num_labels=3, problem_type=single)
    gradients(goldens, "finetune-bert-classify", bert_classifier, classes)
    gradients(goldens, "pretrain-bert-mlm", bert(hf.BertForMaskedLM), masked)
    texts = {"num_labels": 3, "problem_type": single}
    for name, make, config, options, labels in [
        ("roberta-classify", hf.RobertaForSequenceClassification, roberta(hf.RobertaConfig), texts, classes),
        ("roberta-tokens", hf.RobertaForTokenClassification, roberta(hf.RobertaConfig), {"num_labels": 5}, tags),
        (
            "xlm-roberta-tokens",
            hf.XLMRobertaForTokenClassification,
            roberta(hf.XLMRobertaConfig),
            {"num_labels": 5},
            tags,
        ),
        ("electra-classify", hf.ElectraForSequenceClassification, TRAINING.electra, texts, classes),
        ("albert-classify", hf.AlbertForSequenceClassification, albert, texts, classes),
        ("albert-tokens", hf.AlbertForTokenClassification, albert, {"num_labels": 5}, tags),
    ]:
        gradients(goldens, f"finetune-{name}", family(make, config, **options), labels)
    answers = family(hf.AlbertForQuestionAnswering, albert, num_hidden_groups=3)
    gradients(goldens, "finetune-albert-qa", answers, spans, span_loss)
    for name, make, config in [
        ("roberta", hf.RobertaForMaskedLM, roberta(hf.RobertaConfig)),
        ("electra", hf.ElectraForMaskedLM, TRAINING.electra),
        ("albert", hf.AlbertForMaskedLM, albert),
    ]:
        gradients(goldens, f"pretrain-{name}-mlm", family(make, config), masked)


def kl_rows(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """`T^2 KL(softmax(teacher/T) || softmax(student/T))` of each row, in nats."""
    target, guess = F.log_softmax(teacher / temperature, -1), F.log_softmax(student / temperature, -1)
    return temperature**2 * F.kl_div(guess, target, reduction="none", log_target=True).sum(-1)


BERT_TO_DISTILBERT = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


def student_of(teacher: hf.PreTrainedModel, layers: list[int]) -> hf.DistilBertForMaskedLM:
    """A DistilBERT from some of a teacher's layers, the token types dropped, as published."""
    pairs = {
        "bert.embeddings.word_embeddings": "distilbert.embeddings.word_embeddings",
        "bert.embeddings.position_embeddings": "distilbert.embeddings.position_embeddings",
        "bert.embeddings.LayerNorm": "distilbert.embeddings.LayerNorm",
        "cls.predictions.transform.dense": "vocab_transform",
        "cls.predictions.transform.LayerNorm": "vocab_layer_norm",
        "cls.predictions.decoder": "vocab_projector",
    }
    for i, layer in enumerate(layers):
        for theirs, ours in BERT_TO_DISTILBERT.items():
            pairs[f"bert.encoder.layer.{layer}.{theirs}"] = f"distilbert.transformer.layer.{i}.{ours}"
    state = {
        f"{ours}.{kind}": teacher.state_dict()[f"{theirs}.{kind}"]
        for theirs, ours in pairs.items()
        for kind in ("weight", "bias")
        if f"{theirs}.{kind}" in teacher.state_dict()
    }
    student = hf.DistilBertForMaskedLM(TRAINING.distilbert(len(layers), **NO_DROPOUT_DISTILBERT))
    student.load_state_dict(state)
    student.set_attn_implementation("eager")
    return student.eval()


@dataclass(frozen=True)
class Run:
    """The settings of a distillation run, named as `meta.json` names them."""

    kl_positions: str = "all"
    alpha_ce: float = 5.0
    alpha_mlm: float = 2.0
    alpha_cos: float = 1.0
    alpha_mse: float = 0.0
    temperature: float = 2.0
    lr: float = 5e-4
    eps: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    max_grad_norm: float = 5.0
    schedule: str = "constant"
    warmup_steps: int = 0
    total_steps: int = 3
    accumulation: int = 1

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 1."""
        if self.schedule == "constant":
            return self.lr
        if step <= self.warmup_steps:
            return self.lr * step / self.warmup_steps
        return self.lr * (self.total_steps - step) / (self.total_steps - self.warmup_steps)


STEPS = 3
LAYERS = [0, 3]
RUN_NOTE = (
    "kl: sum over the vocabulary, mean over the kept positions (all real tokens, or the masked ones only), times T^2; "
    "mlm: mean over masked positions; cosine: 1 - cos of the last hidden states, mean over all real tokens; "
    "mse: squared difference of the logits, summed over the vocabulary, mean over the kept positions; "
    "each mean is over the positions of the whole step, whose rows are split into `accumulation` equal consecutive "
    "micro-batches; linear schedule: lr * step / warmup_steps up to warmup_steps, then "
    "lr * (total_steps - step) / (total_steps - warmup_steps), steps counted from 1; "
    "the no-decay group holds biases and layer norms; gradients are stored before clipping"
)


def distil_goldens(goldens: Goldens) -> None:
    goldens.begin("distil-run")
    teacher = spice(hf.BertForMaskedLM(TRAINING.bert(4, **NO_DROPOUT_BERT)), TRAINING)
    student = student_of(teacher, LAYERS)
    teacher.save_pretrained(goldens.out / "distil-run" / "teacher")
    student.save_pretrained(goldens.out / "distil-run" / "student-init")
    distil(goldens, "distil-run", teacher, student, Run())
    distil(goldens, "distil-run-masked", teacher, student, Run(kl_positions="masked"))
    # Decay, clipping and short memory as strong as here show in the parameters; at the usual strength they hide in the
    # tolerance.
    schedule = Run(
        schedule="linear", lr=1e-3, warmup_steps=2, total_steps=5, accumulation=2,
        alpha_mse=0.125, weight_decay=1.0, max_grad_norm=3.0, betas=(0.8, 0.9),
    )  # fmt: skip
    distil(goldens, "distil-run-schedule", teacher, student, schedule)


def distil(goldens: Goldens, name: str, teacher: hf.PreTrainedModel, student: hf.PreTrainedModel, run: Run) -> None:
    """Three steps, each with its batch, its gradients and the parameters after it."""
    generator = goldens.begin(name)
    batches = []
    for _ in range(STEPS):
        inputs = random_inputs(student.config, 6, LONGEST, generator)
        labels = masked_labels(inputs, 0.2, generator)
        inputs["input_ids"] = torch.where(labels >= 0, MASK_ID, inputs["input_ids"])
        batches.append((inputs, labels))
    single, losses = replay(teacher, copy.deepcopy(student), run, batches)
    double, _ = replay(as_double(teacher), as_double(student), run, batches)
    for i, (step, step_double, (inputs, labels)) in enumerate(zip(single, double, batches, strict=True)):
        goldens.record(name, step, step_double)
        batch = {f"input.{key}": tensor for key, tensor in inputs.items()} | {"labels": labels}
        save(goldens.out / name / f"step{i}.safetensors", batch | step)
    settings = {key: getattr(run, key) for key in run.__dataclass_fields__}
    paths = {"teacher": "../distil-run/teacher", "student_init": "../distil-run/student-init", "layers": LAYERS}
    fixed = {"token_types": "dropped", "freeze_positions": False, "dropout": 0.0, "note": RUN_NOTE}
    write_json(goldens.out / name / "meta.json", paths | settings | fixed | {"steps": losses})


def replay(
    teacher: hf.PreTrainedModel, student: hf.PreTrainedModel, run: Run, batches: list[tuple[Tensors, Tensor]]
) -> tuple[list[Tensors], list[dict[str, float]]]:
    """Trains `student` in place; gives gradients and parameters of each step, and its losses."""
    no_decay = ("bias", "LayerNorm.weight", "layer_norm.weight")
    named = list(student.named_parameters())
    groups = [
        {"params": [p for n, p in named if not n.endswith(no_decay)], "weight_decay": run.weight_decay},
        {"params": [p for n, p in named if n.endswith(no_decay)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=run.lr, eps=run.eps, betas=run.betas)
    steps, losses = [], []
    for i, (inputs, labels) in enumerate(batches):
        optimizer.zero_grad()
        parts = accumulate(teacher, student, run, inputs, labels)
        tensors = {f"grad.{n}": p.grad.clone() for n, p in named if p.grad is not None}
        norm = torch.nn.utils.clip_grad_norm_(student.parameters(), run.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = run.rate(i + 1)
        optimizer.step()
        steps.append(tensors | {f"param_after.{n}": p.detach().clone() for n, p in named})
        losses.append(parts | {"grad_norm": norm.item(), "lr": run.rate(i + 1)})
    return steps, losses


def accumulate(
    teacher: hf.PreTrainedModel, student: hf.PreTrainedModel, run: Run, inputs: Tensors, labels: Tensor
) -> dict[str, float]:
    """Adds the step's gradients, micro-batch by micro-batch; every mean is over the whole step's positions."""
    real, masked = inputs["attention_mask"].bool(), labels >= 0
    kept = real if run.kl_positions == "all" else masked
    parts = dict.fromkeys(("loss", "kl", "mlm", "cos", "mse"), 0.0)
    for rows in torch.arange(len(labels)).chunk(run.accumulation):
        micro = {key: tensor[rows] for key, tensor in inputs.items()}
        s = student(**micro, output_hidden_states=True)
        with torch.no_grad():
            t = teacher(**micro, output_hidden_states=True)
        keep, is_real, is_masked = kept[rows], real[rows], masked[rows]
        micro_parts = {
            "kl": kl_rows(s.logits[keep], t.logits[keep], run.temperature).sum() / kept.sum(),
            "mlm": F.cross_entropy(s.logits[is_masked], labels[rows][is_masked], reduction="sum") / masked.sum(),
            "cos": (1 - F.cosine_similarity(s.hidden_states[-1], t.hidden_states[-1], -1)[is_real]).sum() / real.sum(),
            "mse": (s.logits[keep] - t.logits[keep]).square().sum() / kept.sum(),
        }
        weights = {"kl": run.alpha_ce, "mlm": run.alpha_mlm, "cos": run.alpha_cos, "mse": run.alpha_mse}
        micro_parts["loss"] = sum(weights[key] * micro_parts[key] for key in weights)
        micro_parts["loss"].backward()
        for key, value in micro_parts.items():
            parts[key] += value.item()
    return parts


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def check_reload(out: Path) -> None:
    """Every folder, loaded again by the package, must give the numbers beside it."""
    for file in sorted(out.glob("*/expected.safetensors")):
        expected = load_file(file)
        inputs = {key.removeprefix("input."): value for key, value in expected.items() if key.startswith("input.")}
        if not inputs:
            continue  # Another script's.
        config = hf.AutoConfig.from_pretrained(file.parent)
        if config.architectures and config.architectures[0].endswith("ForIntentsAndSlots"):
            continue  # The package has no such class.
        model = model_class(config).from_pretrained(file.parent, attn_implementation="eager").eval()
        found = reference_tensors(model, inputs)
        for key in expected.keys() & found.keys():
            same = torch.allclose(expected[key], found[key], rtol=1e-5, atol=1e-6)
            assert same, f"{file.parent.name}: {key} changed by the reload"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write to (its README.md stays)")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    hf.utils.logging.disable_progress_bar()
    hf.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    goldens = Goldens(arguments.out, arguments.seed)
    forward_goldens(goldens)
    family_goldens(goldens)
    finetune_goldens(goldens)
    distil_goldens(goldens)
    check_reload(arguments.out)
    print(f"PyTorch {torch.__version__}, transformers {hf.__version__}, seed {arguments.seed}\n")
    print(goldens.report())


if __name__ == "__main__":
    main()
