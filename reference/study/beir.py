"""Writes the test collections CISI and Cranfield in the layout of BEIR, and SICK's pairs as TSV.

    python reference/study/beir.py DATA OUT

DATA holds `cisi/CISI.ALL`, `CISI.QRY`, `CISI.REL`; `cranfield/cran.all.1400`, `cran.qry`, `QRelsCorrectedforTRECeval`;
and `sick/SICK_train.txt`. Each collection becomes `OUT/NAME/{corpus,queries}.jsonl` and `OUT/NAME/qrels/test.tsv`.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

# Field marks of the SMART format: title, text. All others (authors, references, ...) are left out.
TITLE, TEXT = ".T", ".W"


def records(path: Path) -> list[dict[str, str]]:
    """The records of a file, each with its number under `.I`."""
    found: list[dict[str, str]] = []
    field = ""
    for line in path.read_text(encoding="latin-1").splitlines():
        mark = line.rstrip()
        if mark.startswith(".I "):
            found.append({".I": str(int(mark[3:]))})
            field = ""
        elif len(mark) == 2 and mark[0] == "." and mark[1].isupper():
            field = mark
        elif field:
            found[-1][field] = f"{found[-1].get(field, '')} {line.strip()}".strip()
    return found


def write(folder: Path, corpus: list[dict[str, str]], queries: list[tuple[str, str]], qrels: Iterable[tuple]) -> None:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for record in corpus:
            title, text = record.get(TITLE, ""), record.get(TEXT, "")
            # Cranfield's texts begin with their titles.
            text = text.removeprefix(title).strip() or title
            print(json.dumps({"_id": record[".I"], "title": title, "text": text}), file=file)
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as file:
        for number, text in queries:
            print(json.dumps({"_id": number, "text": text}), file=file)
    # A pair may be judged twice; the higher grade counts.
    grades: dict[tuple[str, str], int] = {}
    for query, document, grade in qrels:
        grades[query, document] = max(grade, grades.get((query, document), 0))
    with (folder / "qrels/test.tsv").open("w", encoding="utf-8") as file:
        print("query-id\tcorpus-id\tscore", file=file)
        for (query, document), grade in grades.items():
            print(f"{query}\t{document}\t{grade}", file=file)
    print(f"{folder}: {len(corpus)} documents, {len(queries)} queries, {len(grades)} judgements")


def main() -> None:
    data, out = Path(sys.argv[1]), Path(sys.argv[2])

    queries = [(record[".I"], record[TEXT]) for record in records(data / "cisi/CISI.QRY")]
    judged = [line.split() for line in (data / "cisi/CISI.REL").read_text().splitlines() if line.strip()]
    write(out / "cisi", records(data / "cisi/CISI.ALL"), queries, ((row[0], row[1], 1) for row in judged))

    # Judgements number the queries by their order, not by what the file calls them.
    queries = [(str(index), record[TEXT]) for index, record in enumerate(records(data / "cranfield/cran.qry"), 1)]
    lines = (data / "cranfield/QRelsCorrectedforTRECeval").read_text().splitlines()
    judged = [line.split() for line in lines if line.strip()]
    qrels = ((row[0], row[2], int(row[3])) for row in judged)
    write(out / "cranfield", records(data / "cranfield/cran.all.1400"), queries, qrels)

    rows = (data / "sick/SICK_train.txt").read_text(encoding="utf-8").splitlines()
    with (out / "sick.tsv").open("w", encoding="utf-8") as file:
        print("sentence_a\tsentence_b\tscore", file=file)
        for row in rows[1:]:
            _, first, second, score, _ = row.split("\t")
            print(f"{first}\t{second}\t{score}", file=file)
    print(f"{out / 'sick.tsv'}: {len(rows) - 1} pairs")


if __name__ == "__main__":
    main()
