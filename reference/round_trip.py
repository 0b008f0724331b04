"""Proves both ways that folders are exchangeable with `transformers`.

Each FOLDER, written by `distilbert`, is loaded with the class its config.json names. Missing and unexpected tensor
names are errors, and so is a tensor that is not loaded bit for bit. Then transformers writes the model to OUT/NAME,
with the numbers that it computes in expected.safetensors. A tokenizer, where the folder has one, encodes sample texts
to OUT/NAME/expected_tokens.json and is written too.

With --binary, `distilbert verify` then checks FOLDER (what we write) and OUT/NAME (what we read) against the numbers.
"""

import argparse
import json
import subprocess
from pathlib import Path

import torch
import transformers as hf
from safetensors.torch import load_file

from common import load_model, longest_sequence, random_inputs, reference_tensors, save

SAMPLES = [
    "A plain sentence, with a comma.",
    "Crème brûlée — naïve café! 東京 2024, €5.00",
    "UPPER lower MiXeD don't re-do 3.14",
    "unbelievablyunknownwordwithoutanyhope \U0001f642",
    "",
]


def round_trip(folder: Path, out: Path) -> None:
    model = load_model(str(folder), unused_is_an_error=True)
    longest = min(23, longest_sequence(model.config))
    inputs = random_inputs(model.config, 4, longest, torch.Generator().manual_seed(7))
    model.save_pretrained(out)  # transformers' own folder, for our reader
    save(out / "expected.safetensors", reference_tensors(model, inputs))

    written, loaded = load_file(folder / "model.safetensors"), model.state_dict()
    for name, tensor in written.items():
        if name not in loaded or not torch.equal(tensor, loaded[name]):
            raise SystemExit(f"{folder}: tensor {name} is not what transformers loaded")
    print(f"{folder}: {type(model).__name__}, {len(written)} tensors loaded unchanged")

    if (folder / "tokenizer.json").exists() or (folder / "vocab.txt").exists():
        tokenizer = hf.AutoTokenizer.from_pretrained(folder)
        tokenizer.save_pretrained(out)
        encoded = [{"text": text, "input_ids": tokenizer(text)["input_ids"]} for text in SAMPLES]
        pair = {"text": SAMPLES[0], "pair": SAMPLES[1], "input_ids": tokenizer(SAMPLES[0], SAMPLES[1])["input_ids"]}
        tokens = json.dumps([*encoded, pair], ensure_ascii=False, indent=1)
        (out / "expected_tokens.json").write_text(tokens + "\n", encoding="utf-8")
        print(f"{folder}: {type(tokenizer).__name__}, {len(tokenizer)} entries")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True, help="where transformers writes what it loaded")
    parser.add_argument("--binary", type=Path, help="the `distilbert` to verify both sides with")
    arguments = parser.parse_args()
    hf.utils.logging.disable_progress_bar()
    for folder in arguments.folders:
        out = arguments.out / folder.resolve().name
        round_trip(folder, out)
        if arguments.binary:
            for side in (folder, out):
                subprocess.run(
                    [arguments.binary, "verify", side, "--expected", out / "expected.safetensors"], check=True
                )


if __name__ == "__main__":
    main()
