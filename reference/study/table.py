"""Makes the tables of the distillation study from what `run.py` measured.

    python reference/study/table.py WORK > tables.md

Scores are GLUE's, in percent: Matthews for CoLA, the mean of accuracy and F1 for MRPC and QQP, the mean of Pearson and
Spearman for STS-B, accuracy else; entity F1 for CoNLL-2003, F1 for SQuAD, whole sentences right for ATIS and SNIPS.
They are those of the learning rate that was best on the validation part of the training set. A model is compared with
another over the tasks that both have finished: the mean difference, and a paired t-test over the tasks' means.
"""

import argparse
import json
import math
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from scipy import stats

REFERENCE = "minilm"
CONTROLS = ("copied-3", "random-3")

Outcome = dict[str, Any]


def read(work: Path) -> list[Outcome]:
    return [json.loads(line) for line in (work / "outcomes.jsonl").read_text(encoding="utf-8").splitlines()]


def score(metrics: dict[str, float]) -> float:
    """The one metric by which such a task is compared, or the mean of GLUE's."""
    for name in ("entity_f1", "sentence_accuracy"):
        if name in metrics:
            return 100 * metrics[name]
    if "exact_match" in metrics:
        return 100 * metrics["f1"]
    return 100 * statistics.mean(metrics.values())


def validation(outcome: Outcome) -> float:
    return outcome["validation"]["state"]["best_score"]


def by_model(outcomes: list[Outcome]) -> dict[str, dict[str, list[float]]]:
    """Scores of every model and task at its best learning rate, by seed."""
    found: dict[tuple[str, str], dict[str, dict[int, Outcome]]] = defaultdict(lambda: defaultdict(dict))
    for outcome in outcomes:
        if "task" in outcome:
            found[outcome["student"], outcome["task"]][outcome["rate"]][outcome["seed"]] = outcome
    scores: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for (student, task), rates in found.items():
        best = max(rates.values(), key=lambda seeds: validation(seeds[1]))
        scores[student][task] = [score(best[seed]["evaluation"]["metrics"]) for seed in sorted(best)]
    return scores


def compare(a: dict[str, list[float]], b: dict[str, list[float]]) -> str:
    tasks = [task for task in a if task in b]
    differences = [statistics.mean(a[task]) - statistics.mean(b[task]) for task in tasks]
    if len(differences) < 2:
        return "–"
    p = stats.ttest_rel([statistics.mean(a[t]) for t in tasks], [statistics.mean(b[t]) for t in tasks]).pvalue
    return f"{statistics.mean(differences):+.1f} (p {p:.3f})"


def cell(scores: list[float] | None) -> str:
    if not scores:
        return ""
    spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    return f"{statistics.mean(scores):.1f}{spread}"


def row(cells: list[str]) -> None:
    print("| " + " | ".join(cells) + " |")


def task_table(scores: dict[str, dict[str, list[float]]]) -> None:
    tasks = list(scores.get(REFERENCE, {}))
    row(["model", *tasks, "mean", "of the teacher's", *(f"against {name}" for name in CONTROLS)])
    row(["---"] * (len(tasks) + 3 + len(CONTROLS)))
    for name, own in scores.items():
        shared = [task for task in tasks if task in own]
        mean = statistics.mean(statistics.mean(own[task]) for task in shared) if shared else math.nan
        reference = statistics.mean(statistics.mean(scores[REFERENCE][t]) for t in shared) if shared else math.nan
        against = [compare(own, scores[c]) if c in scores and c != name else "" for c in CONTROLS]
        cells = [cell(own.get(task)) for task in tasks]
        row([name, *cells, f"{mean:.1f}", f"{100 * mean / reference:.1f} %", *against])


def cost_table(outcomes: list[Outcome]) -> None:
    row(["stage", "minutes"])
    row(["---", "---"])
    spent: dict[str, float] = defaultdict(float)
    for outcome in outcomes:
        spent[outcome["task"] + ", all models" if "task" in outcome else outcome["stage"]] += outcome["seconds"] / 60
    for stage, minutes in spent.items():
        row([stage, f"{minutes:.0f}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="the folder of run.py")
    outcomes = read(parser.parse_args().work)
    task_table(by_model(outcomes))
    print()
    cost_table(outcomes)


if __name__ == "__main__":
    main()
