"""Makes the goldens of distillation objectives between layers: runs of two steps, as `distil-run` of make_goldens.py.

Each folder has `meta.json` (settings, terms, losses), `stepN.safetensors` (the batch, the gradients before clipping,
the parameters after the step) and, where the widths differ, `projections.safetensors`, the first weights of the learned
linears.
The formulae are written out here from the papers, on padded batches with a mask. Prints the error of float32 itself, as
make_goldens.py does.
"""

import argparse
import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor, nn

from common import random_inputs, save
from make_goldens import (
    LONGEST,
    MASK_ID,
    NO_DROPOUT_BERT,
    NO_DROPOUT_DISTILBERT,
    TRAINING,
    Goldens,
    Tensors,
    as_double,
    kl_rows,
    masked_labels,
    spice,
    write_json,
)

STEPS = 2
# Of the teacher's 15 in 3 heads of 5; the same number of heads.
NARROW: dict[str, int] = {"dim": 12, "n_heads": 3, "hidden_dim": 17}


@dataclass(frozen=True)
class Run:
    """The settings of a run, named as `meta.json` names them."""

    layer_terms: list[dict[str, Any]] = field(default_factory=list)
    kl_positions: str = "all"
    alpha_ce: float = 0.0
    alpha_mlm: float = 0.0
    alpha_cos: float = 0.0
    temperature: float = 2.0
    lr: float = 1e-3
    eps: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.5
    max_grad_norm: float = 5.0
    accumulation: int = 2


def pairs_of(term: dict[str, Any], student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Pairs of layers counted from 1, the student's first; 0 is the embedding output."""
    layers = term["layers"]
    even = [(m, round(m * teacher_layers / student_layers)) for m in range(1, student_layers + 1)]
    named = {
        "embeddings": [(0, 0)],
        "even": even,
        "even-but-last": even[:-1],
        "top-but-last": [(m, teacher_layers - student_layers + m) for m in range(1, student_layers)],
        "last": [(student_layers, teacher_layers)],
    }
    return named[layers] if isinstance(layers, str) else [tuple(pair) for pair in layers]


PARTS = {
    "query": ("attention.self.query", "attention.q_lin"),
    "key": ("attention.self.key", "attention.k_lin"),
    "value": ("attention.self.value", "attention.v_lin"),
}


class Watched:
    """A model whose hidden states, queries, keys and values are kept in a pass."""

    def __init__(self, model: hf.PreTrainedModel) -> None:
        self.model = model
        self.qkv: dict[tuple[str, int], Tensor] = {}
        config = model.config
        self.heads = config.num_attention_heads
        for part, names in PARTS.items():
            found = [module for name, module in model.named_modules() if name.endswith(names)]
            assert len(found) == config.num_hidden_layers, (part, len(found))
            for layer, module in enumerate(found, 1):
                module.register_forward_hook(self.keep(part, layer))

    def keep(self, part: str, layer: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self.qkv[part, layer] = output

        return hook

    def scores(self, left: str, right: str, layer: int, heads: int) -> Tensor:
        """Products of all tokens `[batch, heads, seq, seq]`, over the square root of a head's width."""

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (heads, -1)).transpose(1, 2)

        a, b = split(self.qkv[left, layer]), split(self.qkv[right, layer])
        return a @ b.transpose(-1, -2) / a.shape[-1] ** 0.5

    def __call__(self, **inputs: Tensor) -> Any:
        output = self.model(**inputs, output_hidden_states=True)
        self.states = output.hidden_states
        return output


def sum_and_count(
    term: dict[str, Any], pair: tuple[int, int], s: Watched, t: Watched, real: Tensor, projection: nn.Module | None
) -> tuple[Tensor, int]:
    """What the term sums over one pair of layers, and over how many numbers or positions."""
    student, teacher = s.states[pair[0]], t.states[pair[1]]
    match term["compare"]:
        case "hidden":
            student = projection(student) if projection else student
            return (student - teacher)[real].square().sum(), int(real.sum()) * teacher.shape[-1]
        case "patient":
            if term.get("tokens", "first") == "first":
                student, teacher = student[:, 0], teacher[:, 0]
            else:
                student, teacher = student[real], teacher[real]
            return (F.normalize(student, dim=-1) - F.normalize(teacher, dim=-1)).square().sum(), len(student)
        case compare:
            left, right = RELATIONS[compare]
            heads = term.get("heads") or t.heads
            student, teacher = (m.scores(left, right, layer, heads) for m, layer in zip((s, t), pair, strict=True))
            keys = real[:, None, None, :]
            if compare == "attention-scores":
                both = (keys & real[:, None, :, None]).expand_as(student)
                return (student - teacher)[both].square().sum(), int(both.sum())
            rows = [F.log_softmax(x.masked_fill(~keys, -torch.inf), -1) for x in (student, teacher)]
            # Padded keys have no probability; 0 x infinity is not what they add.
            guess, target = (x.masked_fill(~keys, 0.0) for x in rows)
            each = (rows[1].exp() * (target - guess)).sum(-1)
            return each[real[:, None, :].expand_as(each)].sum(), heads * int(real.sum())


RELATIONS = {
    "attention-scores": ("query", "key"),
    "attention": ("query", "key"),
    "queries": ("query", "query"),
    "keys": ("key", "key"),
    "values": ("value", "value"),
}


def accumulate(
    teachers: list[Watched],
    student: Watched,
    projections: dict[int, nn.Module],
    run: Run,
    inputs: Tensors,
    labels: Tensor,
) -> dict[str, Any]:
    """Adds the step's gradients, micro-batch by micro-batch; every mean is over the whole step's positions."""
    micros = list(torch.arange(len(labels)).chunk(run.accumulation))
    real, masked = inputs["attention_mask"].bool(), labels >= 0
    kept = real if run.kl_positions == "all" else masked
    depth = student.model.config.n_layers

    def parts_of(rows: Tensor) -> tuple[dict[str, Tensor], list[list[tuple[Tensor, int]]]]:
        """The ends' terms, and what each term between layers sums over each pair of layers with each teacher."""
        micro = {key: tensor[rows] for key, tensor in inputs.items()}
        s = student(**micro)
        with torch.no_grad():
            outputs = [teacher(**micro) for teacher in teachers]
        keep, is_real, is_masked = kept[rows], real[rows], masked[rows]
        kls = [kl_rows(s.logits[keep], t.logits[keep], run.temperature).sum() / kept.sum() for t in outputs]
        cosines = [torch.tensor(0.0)]
        if run.alpha_cos:
            pairs = [(s.hidden_states[-1], t.hidden_states[-1]) for t in outputs]
            cosines = [(1 - F.cosine_similarity(*pair, -1))[is_real].sum() / real.sum() for pair in pairs]
        ends = {
            "kl": torch.stack(kls).mean(),
            "mlm": F.cross_entropy(s.logits[is_masked], labels[rows][is_masked], reduction="sum") / masked.sum(),
            "cos": torch.stack(cosines).mean(),
        }
        sums = [
            [
                sum_and_count(term, pair, student, teacher, is_real, projections.get(i))
                for teacher in teachers
                for pair in pairs_of(term, depth, teacher.model.config.num_hidden_layers)
            ]
            for i, term in enumerate(run.layer_terms)
        ]
        return ends, sums

    with torch.no_grad():  # The counts of the whole step come first.
        counts = [[c for _, c in term] for term in parts_of(torch.arange(len(labels)))[1]]
    values: dict[str, Any] = dict.fromkeys(("loss", "kl", "mlm", "cos"), 0.0)
    values["layer_terms"] = [0.0] * len(run.layer_terms)
    for rows in micros:
        ends, sums = parts_of(rows)
        means = [[s / n for (s, _), n in zip(term, counts[i], strict=True)] for i, term in enumerate(sums)]
        terms = [sum(term) / len(teachers) for term in means]
        weighted = [(run.alpha_ce, ends["kl"]), (run.alpha_mlm, ends["mlm"]), (run.alpha_cos, ends["cos"])]
        weighted += zip([term["weight"] for term in run.layer_terms], terms, strict=True)
        # A term without weight is left out, so that what no term reaches has no gradient and is left as it is.
        loss = sum(weight * value for weight, value in weighted if weight)
        loss.backward()
        for key, value in (ends | {"loss": loss}).items():
            values[key] += value.item()
        values["layer_terms"] = [total + new.item() for total, new in zip(values["layer_terms"], terms, strict=True)]
    return values


def replay(
    teachers: list[hf.PreTrainedModel],
    student: hf.PreTrainedModel,
    projections: dict[int, nn.Module],
    run: Run,
    batches: list[tuple[Tensors, Tensor]],
) -> tuple[list[Tensors], list[dict[str, Any]]]:
    """Trains `student` and `projections` in place; gives gradients and parameters of each step, and its losses."""
    named = list(student.named_parameters())
    for i, projection in projections.items():
        named += [(f"projection.{i}.{n}", p) for n, p in projection.named_parameters()]
    no_decay = ("bias", "LayerNorm.weight", "layer_norm.weight")
    groups = [
        {"params": [p for n, p in named if not n.endswith(no_decay)], "weight_decay": run.weight_decay},
        {"params": [p for n, p in named if n.endswith(no_decay)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=run.lr, eps=run.eps, betas=run.betas)
    watched = ([Watched(copy.deepcopy(teacher)) for teacher in teachers], Watched(student))
    steps, losses = [], []
    for inputs, labels in batches:
        optimizer.zero_grad()
        values = accumulate(*watched, projections, run, inputs, labels)
        tensors = {f"grad.{n}": p.grad.clone() for n, p in named if p.grad is not None}
        norm = torch.nn.utils.clip_grad_norm_([p for _, p in named], run.max_grad_norm)
        optimizer.step()
        steps.append(tensors | {f"param_after.{n}": p.detach().clone() for n, p in named})
        losses.append(values | {"grad_norm": norm.item()})
    return steps, losses


def run_golden(
    goldens: Goldens,
    name: str,
    teachers: dict[str, hf.PreTrainedModel],
    student: hf.PreTrainedModel,
    student_at: str,
    run: Run,
) -> None:
    """`teachers` are of one width, by their folders."""
    generator = goldens.begin(name)
    models = list(teachers.values())
    widths = (student.config.dim, models[0].config.hidden_size)
    projections: dict[int, nn.Module] = {
        i: nn.Linear(*widths)
        for i, term in enumerate(run.layer_terms)
        if term["compare"] == "hidden" and widths[0] != widths[1]
    }
    folder = goldens.out / name
    if projections:
        first = {f"projection.{i}.{n}": p for i, m in projections.items() for n, p in m.named_parameters()}
        save(folder / "projections.safetensors", first)
    batches = []
    for _ in range(STEPS):
        inputs = random_inputs(student.config, 6, LONGEST, generator)
        labels = masked_labels(inputs, 0.2, generator)
        inputs["input_ids"] = torch.where(labels >= 0, MASK_ID, inputs["input_ids"])
        batches.append((inputs, labels))
    doubles = {i: copy.deepcopy(m).double() for i, m in projections.items()}
    double, _ = replay([as_double(model) for model in models], as_double(student), doubles, run, batches)
    single, losses = replay(models, copy.deepcopy(student), projections, run, batches)
    for i, (step, step_double, (inputs, labels)) in enumerate(zip(single, double, batches, strict=True)):
        goldens.record(name, step, step_double)
        batch = {f"input.{key}": tensor for key, tensor in inputs.items()} | {"labels": labels}
        save(folder / f"step{i}.safetensors", batch | step)
    settings = {key: getattr(run, key) for key in run.__dataclass_fields__}
    first, *others = teachers
    paths = {"teacher": first, "other_teachers": others, "student_init": student_at}
    write_json(folder / "meta.json", paths | settings | {"steps": losses})


def finetune_golden(goldens: Goldens, name: str, terms: list[dict[str, Any]]) -> None:
    """One labelled batch of a narrow classifier beside a wider teacher: labels, soft labels and terms between
    layers.
    """
    generator = goldens.begin(name)
    labels = {"num_labels": 3, "problem_type": "single_label_classification"}
    teacher = spice(hf.BertForSequenceClassification(TRAINING.bert(4, **NO_DROPOUT_BERT, **labels)), TRAINING)
    config = hf.DistilBertConfig(
        vocab_size=TRAINING.vocab, max_position_embeddings=TRAINING.positions, n_layers=2,
        **NARROW, **NO_DROPOUT_DISTILBERT, **labels,
    )  # fmt: skip
    student = spice(hf.DistilBertForSequenceClassification(config), TRAINING)
    projections = {i: nn.Linear(12, 15) for i, term in enumerate(terms) if term["compare"] == "hidden"}
    inputs = random_inputs(config, 5, LONGEST, generator)
    classes = torch.randint(0, 3, (5,), generator=generator)
    soft = {"temperature": 3.0, "alpha_hard": 0.25, "alpha_soft": 0.75}

    def expected(teacher: hf.PreTrainedModel, student: hf.PreTrainedModel, linears: dict[int, nn.Module]) -> Tensors:
        s, t = Watched(student), Watched(teacher)
        with torch.no_grad():
            target = t(**inputs).logits
        logits = s(**inputs).logits
        loss = soft["alpha_hard"] * F.cross_entropy(logits, classes)
        loss = loss + soft["alpha_soft"] * kl_rows(logits, target, soft["temperature"]).mean()
        for i, term in enumerate(terms):
            for pair in pairs_of(term, 2, 4):
                total, count = sum_and_count(term, pair, s, t, inputs["attention_mask"].bool(), linears.get(i))
                loss = loss + term["weight"] * total / count
        loss.backward()
        named = list(student.named_parameters())
        named += [(f"projection.{i}.{n}", p) for i, m in linears.items() for n, p in m.named_parameters()]
        tensors = {f"input.{k}": v for k, v in inputs.items()} | {"labels": classes, "loss": loss, "logits": logits}
        return tensors | {"teacher_logits": target} | {f"grad.{n}": p.grad for n, p in named}

    doubles = {i: copy.deepcopy(m).double() for i, m in projections.items()}
    double = expected(as_double(teacher), as_double(student), doubles)
    folder = goldens.out / name
    student.save_pretrained(folder)
    teacher.save_pretrained(folder / "teacher")
    first = {f"projection.{i}.{n}": p for i, m in projections.items() for n, p in m.named_parameters()}
    save(folder / "projections.safetensors", first)
    single = expected(copy.deepcopy(teacher), copy.deepcopy(student), projections)
    goldens.record(name, single, double)
    save(folder / "expected.safetensors", single)
    write_json(folder / "meta.json", soft | {"teacher": "teacher", "layer_terms": terms})


def term(compare: str, layers: Any, weight: float, **more: Any) -> dict[str, Any]:
    return {"compare": compare, "layers": layers, "weight": weight} | more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the goldens' folder, which has `distil-run`")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    hf.utils.logging.disable_progress_bar()
    hf.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    goldens = Goldens(arguments.out, arguments.seed)

    def load(folder: str, kind: type[hf.PreTrainedModel]) -> hf.PreTrainedModel:
        return kind.from_pretrained(arguments.out / "distil-run" / folder, attn_implementation="eager").eval()

    teacher, equal = load("teacher", hf.BertForMaskedLM), load("student-init", hf.DistilBertForMaskedLM)
    goldens.begin("objective-student")
    config = hf.DistilBertConfig(
        vocab_size=TRAINING.vocab, max_position_embeddings=TRAINING.positions, n_layers=2,
        **NARROW, **NO_DROPOUT_DISTILBERT,
    )  # fmt: skip
    narrow = spice(hf.DistilBertForMaskedLM(config), TRAINING)
    narrow.save_pretrained(arguments.out / "objective-student")

    second = spice(hf.BertForMaskedLM(TRAINING.bert(3, **NO_DROPOUT_BERT)), TRAINING)
    second.save_pretrained(arguments.out / "objective-teacher")
    of_one = {"../distil-run/teacher": teacher}
    of_two = of_one | {"../objective-teacher": second}

    def golden(name: str, student: hf.PreTrainedModel, run: Run, teachers: dict[str, Any] = of_one) -> None:
        at = "../objective-student" if student is narrow else "../distil-run/student-init"
        run_golden(goldens, name, teachers, student, at, run)

    golden(
        "objective-hidden",
        narrow,
        Run([term("hidden", "embeddings", 0.5), term("hidden", "even", 1.5)], alpha_ce=1.0, alpha_mlm=0.5),
    )
    golden("objective-hidden-alone", equal, Run([term("hidden", [[0, 0], [1, 3]], 2.0)]))
    golden(
        "objective-patient",
        equal,
        Run(
            [term("patient", "even-but-last", 3.0), term("patient", [[2, 3]], 0.5, tokens="all")],
            alpha_ce=1.0, alpha_mlm=0.5, kl_positions="masked",
        ),
    )  # fmt: skip
    golden(
        "objective-tinybert",
        narrow,
        Run([term("hidden", "embeddings", 1.0), term("hidden", "even", 1.0), term("attention-scores", "even", 2.0)]),
    )
    # Beside masked words: `k_lin.bias` has no gradient of attention but rounding, which shows where nothing is large.
    golden(
        "objective-minilm",
        narrow,
        Run([term("attention", "last", 1.0), term("values", [[2, 3]], 1.5, heads=0)], alpha_mlm=10.0),
    )
    golden(
        "objective-minilm-v2",
        equal,
        Run(
            [
                term("queries", [[2, 3]], 1.0, heads=5),
                term("keys", [[2, 3]], 2.0, heads=5),
                term("values", [[2, 3]], 0.5, heads=5),
            ]
        ),
    )
    golden(
        "objective-two-teachers",
        equal,
        Run(
            [term("hidden", "even", 1.0), term("values", "last", 2.0, heads=3)],
            alpha_ce=2.0, alpha_mlm=1.0, alpha_cos=1.0,
        ),
        of_two,
    )  # fmt: skip
    terms = [term("hidden", "even", 1.0), term("attention-scores", "even", 2.0), term("keys", "last", 0.5, heads=3)]
    finetune_golden(goldens, "objective-finetune", terms)
    print(f"PyTorch {torch.__version__}, transformers {hf.__version__}, seed {arguments.seed}\n")
    print(goldens.report())


if __name__ == "__main__":
    main()
