"""Prepares one model and the texts for `compare.py`: the same weights in the form that each peer runs best.

Writes into OUT: `model` (a Hugging Face folder), `onnx`, `openvino`, `ctranslate2`, `texts.txt`, `pairs.txt`. Weights
are random unless --model names a fine-tuned classifier; nothing is downloaded, so the vocabulary comes from
--tokenizer, any folder with BERT's uncased vocabulary.

--sst2 takes sentences and --squad paragraphs for `texts.txt` (256 and 64, shuffled with a fixed seed); --stsb takes
pairs, of which only the lengths are kept: line n of `pairs.txt` is one word, repeated so that it has as many tokens.
"""

import argparse
import csv
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from torch import Tensor, nn

SEED = 7
SENTENCES, PARAGRAPHS = 256, 64
CALIBRATION_SAMPLES, CALIBRATION_LENGTH = 64, 64
CONFIGS: dict[str, Callable[..., hf.PretrainedConfig]] = {"distilbert": hf.DistilBertConfig, "bert": hf.BertConfig}
TOKENIZER_FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


class TwoOutputs(nn.Module):
    """A classifier that gives its logits and every token's last state."""

    def __init__(self, model: hf.PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
        return output.logits, output.hidden_states[-1]


def make_model(folder: Path, architecture: str, source: str | None, tokenizer: Path) -> None:
    torch.manual_seed(SEED)
    if source:
        model = hf.AutoModelForSequenceClassification.from_pretrained(source, dtype=torch.float32)
    else:
        model = hf.AutoModelForSequenceClassification.from_config(CONFIGS[architecture](num_labels=2))
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder / name)


def export_onnx(model_folder: Path, out: Path) -> None:
    """`f32.onnx` as exported, `f32-fused.onnx` fused by ONNX Runtime's transformer optimiser, and both in int8."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    out.mkdir(parents=True, exist_ok=True)
    model = hf.AutoModelForSequenceClassification.from_pretrained(model_folder, attn_implementation="eager").eval()
    ids = torch.randint(1000, model.config.vocab_size, (2, 11))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    dynamic = {0: "batch", 1: "seq"}
    # The exporter by tracing: the optimiser does not know the graphs of the newer one, and fuses nothing in them.
    torch.onnx.export(
        TwoOutputs(model),
        (ids, mask),
        str(out / "f32.onnx"),
        dynamo=False,
        opset_version=17,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits", "last_hidden_state"],
        dynamic_axes={"input_ids": dynamic, "attention_mask": dynamic},
    )
    fused = optimizer.optimize_model(
        str(out / "f32.onnx"),
        model_type="bert",
        num_heads=model.config.num_attention_heads,
        hidden_size=model.config.hidden_size,
        opt_level=0,
    )
    layers = sum(node.op_type == "Attention" for node in fused.model.graph.node)
    if layers != model.config.num_hidden_layers:
        raise SystemExit(f"fused graph: expected {model.config.num_hidden_layers} attention nodes, found {layers}")
    fused.save_model_to_file(str(out / "f32-fused.onnx"))
    for name in ("", "-fused"):
        quantize_dynamic(
            out / f"f32{name}.onnx",
            out / f"int8{name}.onnx",
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": 1},
        )


def export_openvino(onnx: Path, out: Path, samples: list[dict[str, np.ndarray]]) -> None:
    """`f32`, `int8-weights` (compressed) and `int8` (post-training quantisation by NNCF) from the exported graph."""
    import nncf
    import openvino as ov

    out.mkdir(parents=True, exist_ok=True)

    def read() -> ov.Model:
        return ov.Core().read_model(onnx)

    compressed = nncf.compress_weights(read(), mode=nncf.CompressWeightsMode.INT8_SYM)
    quantized = nncf.quantize(
        read(), nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(samples)
    )
    for name, model in (("f32", read()), ("int8-weights", compressed), ("int8", quantized)):
        ov.save_model(model, out / f"{name}.xml", compress_to_fp16=False)


def export_ctranslate2(model_folder: Path, out: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(model_folder)).convert(str(out), force=True)


def calibration(tokenizer: hf.PreTrainedTokenizerBase, texts: list[str]) -> list[dict[str, np.ndarray]]:
    """Texts as inputs of batch 1, or random ids if there are none."""
    rng = np.random.default_rng(SEED)
    ids = [tokenizer(text, truncation=True, max_length=512)["input_ids"] for text in texts[:CALIBRATION_SAMPLES]]
    if not ids:
        ids = rng.integers(1000, len(tokenizer), (CALIBRATION_SAMPLES, CALIBRATION_LENGTH)).tolist()
    return [{"input_ids": np.array([row]), "attention_mask": np.ones((1, len(row)), np.int64)} for row in ids]


def mixed_texts(sst2: Path, squad: Path) -> list[str]:
    with sst2.open(encoding="utf-8", newline="") as lines:
        sentences = [row["sentence"] for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)]
    articles = json.loads(squad.read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]
    rng = random.Random(SEED)
    texts = rng.sample(sentences, SENTENCES) + rng.sample(paragraphs, PARAGRAPHS)
    rng.shuffle(texts)
    return [" ".join(text.split()) for text in texts]


def pair_lengths(stsb: Path, tokenizer: hf.PreTrainedTokenizerBase) -> list[int]:
    with stsb.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    pairs = tokenizer([row["sentence1"] for row in rows], [row["sentence2"] for row in rows], truncation=True)
    return [len(ids) for ids in pairs["input_ids"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a folder with a tokenizer; no model is read")
    parser.add_argument("--architecture", choices=CONFIGS, default="distilbert", help="base size (default %(default)s)")
    parser.add_argument("--model", help="a folder with a fine-tuned classifier instead of random weights")
    parser.add_argument("--sst2", type=Path, help="dev.tsv of GLUE's SST-2")
    parser.add_argument("--squad", type=Path, help="dev-v1.1.json of SQuAD")
    parser.add_argument("--stsb", type=Path, help="dev.tsv of GLUE's STS-B")
    parser.add_argument("--pytorch-only", action="store_true", help="only what PyTorch needs")
    arguments = parser.parse_args()
    if (arguments.sst2 is None) != (arguments.squad is None):
        parser.error("--sst2 and --squad make one list of texts: expected both or neither")

    hf.logging.set_verbosity_error()
    out: Path = arguments.out
    make_model(out / "model", arguments.architecture, arguments.model, arguments.tokenizer)
    tokenizer = hf.AutoTokenizer.from_pretrained(out / "model")
    texts = mixed_texts(arguments.sst2, arguments.squad) if arguments.sst2 else []
    if texts:
        (out / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    if arguments.stsb:
        lines = [" ".join(["the"] * (length - 2)) for length in pair_lengths(arguments.stsb, tokenizer)]
        (out / "pairs.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if not arguments.pytorch_only:
        export_onnx(out / "model", out / "onnx")
        export_openvino(out / "onnx" / "f32.onnx", out / "openvino", calibration(tokenizer, texts))
        export_ctranslate2(out / "model", out / "ctranslate2")


if __name__ == "__main__":
    main()
