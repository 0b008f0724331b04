"""Writes labelled sets that are published without a part to score on as JSONL with one held out: every tenth row.

    python reference/study/labelled.py DATA OUTPUT

`20newsgroups/train/GROUP/NUMBER` becomes `newsgroups/{train,dev}.jsonl`: the body of a post without its header lines,
whose names and addresses give the group away. `sms_spam/SMSSpamCollection.train` becomes `sms/{train,dev}.jsonl`.
"""

import argparse
import json
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    write(arguments.output / "newsgroups", newsgroups(arguments.data))
    write(arguments.output / "sms", sms(arguments.data))


if __name__ == "__main__":
    main()
