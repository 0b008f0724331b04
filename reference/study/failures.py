"""Where a student errs: by length, negation, label and the teacher's confidence, and what its own confidence is worth.

    python reference/study/failures.py TEACHER/predictions.jsonl STUDENT/predictions.jsonl > failures.md

Both files are of one classifier each (as `evaluate --output` and `finetune` write them), over the same examples.
"""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

Row = dict[str, Any]
NEGATION = re.compile(r"\b(?:not|no|never|neither|nor|nothing|none|without|hardly|n't)\b|n't\b", re.IGNORECASE)


def read(path: Path) -> list[Row]:
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    labels = json.loads(header)["labels"]
    return [{**json.loads(row), "labels": labels} for row in rows]


def right(row: Row) -> bool:
    return row["label"] == row["prediction"]


def confidence(row: Row) -> float:
    return max(row["scores"])


def share(rows: list[Row]) -> str:
    return f"{100 * sum(map(right, rows)) / len(rows):.1f}"


def area_under_roc(rows: list[Row]) -> float:
    """The chance that a right answer is given with more confidence than a wrong one."""
    good = [confidence(row) for row in rows if right(row)]
    bad = [confidence(row) for row in rows if not right(row)]
    if not good or not bad:
        return float("nan")
    wins = sum((g > b) + 0.5 * (g == b) for g in good for b in bad)
    return wins / (len(good) * len(bad))


def slices(teacher: list[Row], student: list[Row]) -> None:
    def text(row: Row) -> str:
        return f"{row['text_a']} {row.get('text_b') or ''}"

    def label_is(label: int) -> Callable[[Row, Row], bool]:
        return lambda _, s: s["label"] == label

    parts: list[tuple[str, Callable[[Row, Row], bool]]] = [
        ("all", lambda t, s: True),
        ("up to 16 tokens", lambda t, s: s["tokens"] <= 16),
        ("17 to 32", lambda t, s: 16 < s["tokens"] <= 32),
        ("more than 32", lambda t, s: s["tokens"] > 32),
        ("with a negation", lambda t, s: bool(NEGATION.search(text(s)))),
        ("without", lambda t, s: not NEGATION.search(text(s))),
        *((f"label {name}", label_is(index)) for index, name in enumerate(student[0]["labels"])),
        ("teacher's confidence above 0.99", lambda t, s: confidence(t) > 0.99),
        ("0.9 to 0.99", lambda t, s: 0.9 < confidence(t) <= 0.99),
        ("up to 0.9", lambda t, s: confidence(t) <= 0.9),
    ]
    print("| examples | number | teacher right | student right | the student alone is wrong | alone is right |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, chosen in parts:
        pairs = [(t, s) for t, s in zip(teacher, student, strict=True) if chosen(t, s)]
        if not pairs:
            continue
        of_teacher, of_student = [t for t, _ in pairs], [s for _, s in pairs]
        lost = sum(right(t) and not right(s) for t, s in pairs)
        won = sum(right(s) and not right(t) for t, s in pairs)
        print(f"| {name} | {len(pairs)} | {share(of_teacher)} | {share(of_student)} | {lost} | {won} |")


def paired_test(teacher: list[Row], student: list[Row]) -> str:
    """McNemar's exact test, and the difference in points with its bootstrap interval over the examples."""
    differences = np.array([float(right(s)) - float(right(t)) for t, s in zip(teacher, student, strict=True)])
    alone = [int((differences == side).sum()) for side in (1, -1)]
    p = stats.binomtest(alone[0], max(sum(alone), 1)).pvalue if sum(alone) else 1.0
    draws = np.random.default_rng(1).integers(len(differences), size=(2000, len(differences)))
    low, high = np.percentile(100 * differences[draws].mean(1), [2.5, 97.5])
    mean = 100 * differences.mean()
    return f"Student minus teacher: {mean:+.1f} points [{low:+.1f}, {high:+.1f}], McNemar's exact test p = {p:.2g}."


def by_confidence(student: list[Row]) -> None:
    print("| the student's confidence | number | right |")
    print("| --- | --- | --- |")
    ends = [0.0, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0]
    for low, high in zip(ends, ends[1:], strict=False):
        rows = [row for row in student if low < confidence(row) <= high]
        if rows:
            print(f"| {low} to {high} | {len(rows)} | {share(rows)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("student", type=Path)
    arguments = parser.parse_args()
    teacher, student = read(arguments.teacher), read(arguments.student)
    slices(teacher, student)
    print(f"\n{paired_test(teacher, student)}\n")
    by_confidence(student)
    areas = f"teacher {area_under_roc(teacher):.3f}, student {area_under_roc(student):.3f}"
    print(f"\nArea under the curve of confidence against being right: {areas}.")


if __name__ == "__main__":
    main()
