"""Writes labelled sets anew: those without a part to score on with one held out, and SST-2 with fewer labels.

    python reference/study/labelled.py DATA OUTPUT

The part held out is every tenth row. `20newsgroups/train/GROUP/NUMBER` becomes `newsgroups/{train,dev}.jsonl`: the body
of a post without its header lines, whose names and addresses give the group away. `sms_spam/SMSSpamCollection.train`
becomes `sms/{train,dev}.jsonl`. `glue/SST-2` is written with every hundredth and every tenth of its rows to
`sst2-1pc/train.tsv` and `sst2-10pc/train.tsv`, the other rows without their labels to `unlabelled.tsv` beside them.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

Row = tuple[str, str]


def newsgroups(data: Path) -> Iterator[Row]:
    for post in sorted((data / "20newsgroups/train").glob("*/*")):
        _, _, body = post.read_text(encoding="utf-8", errors="replace").partition("\n\n")
        if body.strip():
            yield " ".join(body.split()), post.parent.name


def sms(data: Path) -> Iterator[Row]:
    for line in (data / "sms_spam/SMSSpamCollection.train").read_text(encoding="utf-8").splitlines():
        label, _, text = line.partition("\t")
        yield text, label


def write(folder: Path, rows: Iterator[Row]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "train.jsonl").open("w") as train, (folder / "dev.jsonl").open("w") as dev:
        for index, (text, label) in enumerate(rows):
            print(json.dumps({"text": text, "label": label}), file=dev if index % 10 == 9 else train)


def part(source: Path, folder: Path, every: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    header, *rows = (source / "train.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "train.tsv").write_text(header + "".join(rows[::every]), encoding="utf-8")
    others = [row.partition("\t")[0] for index, row in enumerate(rows) if index % every]
    texts = "".join(f"{index}\t{text}\n" for index, text in enumerate(others))
    (folder / "unlabelled.tsv").write_text(f"index\tsentence\n{texts}", encoding="utf-8")
    shutil.copy(source / "dev.tsv", folder / "dev.tsv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    write(arguments.output / "newsgroups", newsgroups(arguments.data))
    write(arguments.output / "sms", sms(arguments.data))
    for name, every in (("sst2-1pc", 100), ("sst2-10pc", 10)):
        part(arguments.data / "glue/SST-2", arguments.output / name, every)


if __name__ == "__main__":
    main()
