"""Makes crates/distilbert/tests/goldens/tagger: a tiny random tagger, and what the pipeline of transformers says with
it.

    pip install torch==2.11.0 transformers==5.23.0
    python reference/make_tag_goldens.py

expected.json holds, for each text, the spans of the five aggregation strategies, nothing ignored and O ignored.
"""

import json
from pathlib import Path

import torch
import transformers as hf

SEED = 11
OUT = Path(__file__).resolve().parent.parent / "crates/distilbert/tests/goldens/tagger"
LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "X"]
PIECES = (
    "wolfgang lives in berlin ber ##lin wolf ##gang new york y ##ork ##s the don t "
    "' . , - ! caf ##e # 1 2 ##3 a b ##b 東 京"
)
TEXTS = [
    "Wolfgang lives in Berlin.",
    "wolfgang berlins new yorks",
    "Don't — Wolfgang, new-york!",
    "Café, CAFÉ caf\u0065\u0301 café's",
    "東京 123 a abb \U0001f642 b",
    "zzz unknown wolfgangs wolfs",
    "  two  spaces\tand a tab \n berlin ",
    "",
]


def plain(value: object) -> object:
    return value.item() if hasattr(value, "item") else str(value)


def main() -> None:
    torch.manual_seed(SEED)
    OUT.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(PIECES.split())]
    (OUT / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    tokenizer = hf.BertTokenizerFast(vocab={token: i for i, token in enumerate(vocabulary)}, do_lower_case=True)
    config = hf.BertConfig(
        vocab_size=len(vocabulary), hidden_size=12, num_attention_heads=3, intermediate_size=20, num_hidden_layers=1,
        max_position_embeddings=64, id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )  # fmt: skip
    model = hf.BertForTokenClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.4)
    model.save_pretrained(OUT)
    tokenizer.save_pretrained(OUT)
    pipeline = hf.pipeline("token-classification", model=model, tokenizer=tokenizer)
    cases = []
    for text in TEXTS:
        for ignored in ([], ["O"]):
            spans = {
                strategy: pipeline(text, aggregation_strategy=strategy, ignore_labels=ignored) if text else []
                for strategy in ("none", "simple", "first", "average", "max")
            }
            cases.append({"text": text, "ignored": ignored, "spans": spans})
    lines = [json.dumps(case, ensure_ascii=False, default=plain) for case in cases]
    (OUT / "expected.json").write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    print(f"{OUT}: {len(cases)} cases")


if __name__ == "__main__":
    main()
