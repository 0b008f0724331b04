"""Makes crates/distilbert/tests/goldens/pipelines.json: what the pipelines of transformers say of texts, and attention.

    python reference/make_pipeline_goldens.py

The models are tiny ones of the same folder, with a vocabulary of made-up words, `w5` on. Versions: requirements.txt.
"""

import json
import pathlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import AutoModel, AutoTokenizer, pipeline

GOLDENS = pathlib.Path(__file__).resolve().parent.parent / "crates/distilbert/tests/goldens"
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@contextmanager
def model(name: str, labels: list[str] | None = None) -> Iterator[str]:
    """The folder, while it is needed, of a copy of a golden model with a vocabulary, and names for its outputs."""
    with tempfile.TemporaryDirectory() as path:
        folder = pathlib.Path(path)
        config = json.loads((GOLDENS / name / "config.json").read_text())
        if labels:
            config["id2label"] = dict(enumerate(labels))
            config["label2id"] = {label: id for id, label in enumerate(labels)}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").write_bytes((GOLDENS / name / "model.safetensors").read_bytes())
        words = SPECIALS + [f"w{id}" for id in range(len(SPECIALS), config["vocab_size"])]
        (folder / "vocab.txt").write_text("\n".join(words) + "\n")
        kind = "BertTokenizer" if config["model_type"] == "bert" else "DistilBertTokenizer"
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "tokenizer_class": kind}))
        yield path


def case(
    task: str,
    name: str,
    text: str | dict[str, str],
    labels: list[str] | None = None,
    arguments: dict[str, object] | None = None,
) -> dict[str, object]:
    arguments = arguments or {}
    with model(name, labels) as folder:
        expected = pipeline(task, model=folder, device="cpu")(text, **arguments)
    return {"model": name, "labels": labels, "text": text, "arguments": arguments, "expected": expected}


def attention(name: str, text: str, pair: str | None = None) -> dict[str, object]:
    with model(name) as folder:
        inputs = AutoTokenizer.from_pretrained(folder)(text, pair, return_tensors="pt")
        network = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        layers = network(**inputs, output_attentions=True).attentions
    expected = [layer[0].double().numpy().round(9).tolist() for layer in layers]
    ids = {key: inputs[key][0].tolist() for key in ["input_ids", "token_type_ids"] if key in inputs}
    ids.setdefault("token_type_ids", [0] * len(ids["input_ids"]))
    return {"model": name, "text": text, "pair": pair} | ids | {"attention": expected}


NLI = ["contradiction", "neutral", "entailment"]
TURNED_NLI = ["ENTAILMENT", "neutral", "contradiction"]
CHOICE = {"candidate_labels": ["w7", "w8 w9", "w10"], "hypothesis_template": "w11 {} w12"}

goldens = {
    "fill_mask": [
        case("fill-mask", "distilbert-mlm", "w5 [MASK] w7", arguments={"top_k": 5}),
        case("fill-mask", "bert-mlm", "w9 w5 unknown [MASK]", arguments={"top_k": 3}),
        case("fill-mask", "bert-mlm", "[MASK] w5 [MASK] w6", arguments={"top_k": 2}),
        case("fill-mask", "distilbert-mlm", "w5 [MASK]", arguments={"targets": ["w9", "w30", "w9", "w12"]}),
    ],
    "zero_shot": [
        case("zero-shot-classification", "bert-classify", "w5 w6 w20", NLI, CHOICE),
        case("zero-shot-classification", "bert-classify", "w5 w6 w20", TURNED_NLI, CHOICE),
        case("zero-shot-classification", "distilbert-classify", "w5 w6", NLI, CHOICE | {"multi_label": True}),
        case("zero-shot-classification", "distilbert-classify", "w5 w6", TURNED_NLI, CHOICE | {"multi_label": True}),
        case("zero-shot-classification", "bert-classify", "w30", NLI, {"candidate_labels": ["w7"]}),
    ],
    "classify": [
        case("text-classification", "finetune-multilabel", "w5 w6", arguments={"top_k": None}),
        case("text-classification", "bert-classify", {"text": "w5 w6", "text_pair": "w7"}, arguments={"top_k": None}),
    ],
    "rerank": [
        case(
            "text-classification",
            "distilbert-regress",
            {"text": "w5 w6", "text_pair": text},
            arguments={"function_to_apply": "sigmoid"},
        )
        for text in ["w7", "w8 w9 w10", "w11 w30", "w31"]
    ],
    "attention": [attention("bert-mlm", "w5 w6 w20", "w7"), attention("distilbert-mlm", "w5 unknown w8")],
}
(GOLDENS / "pipelines.json").write_text(json.dumps(goldens, indent=1) + "\n")
