"""Writes the lengths of texts in tokens, one a line, for timing on real lengths without the texts themselves.

`bench_training.py train --lengths FILE` and `cargo bench --bench training -- --lengths FILE` read such a file.
"""

import argparse
import random
from pathlib import Path

import transformers as hf

SEED = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", help="a folder with a tokenizer")
    parser.add_argument("texts", type=Path, help="a text a line; empty lines are left out")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--limit", type=int, default=256, help="texts, drawn with a fixed seed (default %(default)s)")
    parser.add_argument("--max-length", type=int, default=128, help="longer ones are cut (default %(default)s)")
    arguments = parser.parse_args()

    lines = [line for line in arguments.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    chosen = random.Random(SEED).sample(lines, min(arguments.limit, len(lines)))
    tokenizer = hf.AutoTokenizer.from_pretrained(arguments.tokenizer)
    ids = tokenizer(chosen, truncation=True, max_length=arguments.max_length)["input_ids"]
    arguments.out.write_text("".join(f"{len(row)}\n" for row in ids), encoding="utf-8")


if __name__ == "__main__":
    main()
