"""Makes the `sentence-*` folders of crates/distilbert/tests/goldens: tiny sentence encoders as sentence-transformers
saves them, the embeddings it computes, and losses with every parameter's gradient from PyTorch.

    pip install --no-deps sentence-transformers==6.2.0
    python make_sentence_goldens.py ../crates/distilbert/tests/goldens

Prints, for each folder, the error of float32 PyTorch against float64 in the measures of the goldens' README.
"""

import argparse
import copy
import json
import shutil
import zlib
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers as hf
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from torch import Tensor, nn

from common import save

WORDS = (
    "a man woman is are eating plays the guitar bread dog runs in park red car fast slow cat sleeps on sofa ##s ##ing"
)
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split(), ".", ","]
TEXTS = [
    "A man is eating bread.",
    "a woman plays the guitar",
    "the dog runs in the park, fast",
    "cat",
    "",
    "a red car is slow, a red car is fast, a red car is a red car in the park on the sofa",
    "unknown words and guitars",
]
ANCHORS = ["a man is eating", "the dog runs", "a red car", "the cat sleeps on the sofa"]
POSITIVES = ["a man eating bread", "a dog runs in the park, fast", "the car is red.", "cats sleeping"]
NEGATIVES = ["a woman plays the guitar", "the cat sleeps", "a slow dog", "a man runs fast in the red park"]
SCORES = [0.9, 0.75, 1.0, 0.1]
MARGINS = [0.8, -0.3, 1.4, 0.2]
MAX_LENGTH = 16
SCALE = 5.0


def tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    hf.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    (folder / "vocab.txt").unlink(missing_ok=True)


def bert() -> hf.PreTrainedModel:
    # A width that is no multiple of a SIMD register.
    return hf.BertModel(
        hf.BertConfig(
            vocab_size=len(PIECES), hidden_size=15, num_attention_heads=3, intermediate_size=22,
            max_position_embeddings=24, num_hidden_layers=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip


def distilbert() -> hf.PreTrainedModel:
    return hf.DistilBertModel(
        hf.DistilBertConfig(
            vocab_size=len(PIECES), dim=15, n_heads=3, hidden_dim=22, max_position_embeddings=24, n_layers=2,
            dropout=0.0, attention_dropout=0.0,
        )
    )  # fmt: skip


def build(
    out: Path, name: str, encoder: hf.PreTrainedModel, modules: list[nn.Module], **options: object
) -> SentenceTransformer:
    """Saves the folder through sentence-transformers and opens it again."""
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    # Biases and norms that are not 0 and 1; weights so large that texts differ much in their first token's state too.
    with torch.no_grad():
        for key, parameter in [pair for module in (encoder, *modules) for pair in module.named_parameters()]:
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(4.0 if ".layer." in key else 3.0)
    raw = out / f".{name}"
    tokenizer(raw)
    encoder.save_pretrained(raw)
    transformer = Transformer(str(raw), max_seq_length=MAX_LENGTH)
    SentenceTransformer(modules=[transformer, *modules], device="cpu", **options).save_pretrained(
        str(folder), create_model_card=False
    )
    shutil.rmtree(raw)
    return SentenceTransformer(str(folder), device="cpu").eval()


def embed(model: SentenceTransformer, texts: list[str]) -> Tensor:
    return model(model.tokenize(texts))["sentence_embedding"]


def unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


def losses(model: SentenceTransformer, teacher: Tensor) -> dict[str, Tensor]:
    """Each objective's loss by its definition; the graph is kept for the gradients."""
    a, p, n = (embed(model, texts) for texts in (ANCHORS, POSITIVES, NEGATIVES))
    teacher = teacher.to(a.dtype)
    cosines = (unit(a) * unit(p)).sum(-1)
    candidates = torch.cat([unit(p), unit(n)])
    contrast = SCALE * unit(a) @ candidates.T
    distance = 0.5 * (a - teacher).pow(2).sum(-1).mean()
    margins = SCALE * (cosines - (unit(a) * unit(n)).sum(-1))
    scores, wanted = (torch.tensor(values, dtype=a.dtype) for values in (SCORES, MARGINS))
    return {
        "distil": (1 - F.cosine_similarity(a, teacher)).mean() + distance,
        "similarity": (cosines - scores).pow(2).mean(),
        "contrastive": F.cross_entropy(contrast, torch.arange(len(ANCHORS))),
        "margin": (margins - wanted).pow(2).mean(),
    }


def tensors(model: SentenceTransformer, teacher: Tensor) -> dict[str, Tensor]:
    found = {"embeddings": embed(model, TEXTS), "teacher": teacher.to(next(model.parameters()).dtype)}
    for name, loss in losses(model, teacher).items():
        model.zero_grad(set_to_none=True)
        loss.backward(retain_graph=True)
        found[f"{name}.loss"] = loss
        for key, parameter in model.named_parameters():
            if parameter.grad is not None:
                module, _, rest = key.partition(".")
                # The encoder is module 0; a dense layer keeps its module's number.
                rest = rest.removeprefix("auto_model.").removeprefix("model.")
                found[f"{name}.grad.{rest if module == '0' else f'{module}.{rest}'}"] = parameter.grad.clone()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    cases = {
        "sentence-cls": (bert, lambda: [Pooling(15, "cls"), Normalize()], {}),
        "sentence-dense": (
            distilbert,
            lambda: [Pooling(15, "mean"), Dense(15, 11), Dense(11, 9, activation_function=nn.Identity()), Normalize()],
            {"prompts": {"query": "the ", "document": ""}, "default_prompt_name": None},
        ),
        "sentence-max": (distilbert, lambda: [Pooling(15, "max")], {"similarity_fn_name": "dot"}),
    }
    print("| golden | embeddings and losses | gradients |\n| --- | --- | --- |")
    for name, (encoder, modules, options) in cases.items():
        torch.manual_seed(7 + zlib.crc32(name.encode()))
        model = build(out, name, encoder(), modules(), **options)
        teacher = torch.randn(len(ANCHORS), embed(model, TEXTS).shape[-1])
        single, double = tensors(model, teacher), tensors(copy.deepcopy(model).double(), teacher)
        worst = {"values": 0.0, "gradients": 0.0}
        for objective in ("distil", "similarity", "contrastive", "margin"):
            gradients = [key for key in single if key.startswith(f"{objective}.grad.")]
            total = torch.stack([double[key].norm() for key in gradients]).norm()
            for key in gradients:
                difference = (single[key].double() - double[key]).norm()
                worst["gradients"] = max(
                    worst["gradients"], (difference / torch.maximum(double[key].norm(), 1e-6 * total)).item()
                )
        for key in single:
            if key == "embeddings" or key.endswith(".loss"):
                difference = (single[key].double() - double[key]).abs().max() / double[key].abs().max()
                worst["values"] = max(worst["values"], difference.item())
        save(out / name / "expected.safetensors", single)
        texts = {"texts": TEXTS, "anchors": ANCHORS, "positives": POSITIVES, "negatives": NEGATIVES}
        settings = {"scores": SCORES, "margins": MARGINS, "scale": SCALE}
        (out / name / "expected.json").write_text(json.dumps(texts | settings, indent=1) + "\n")
        print(f"| `{name}` | {worst['values']:.1e} | {worst['gradients']:.1e} |")


if __name__ == "__main__":
    main()
