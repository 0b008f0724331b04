"""Draws the plots of the distillation study from what `run.py` measured, as SVG.

    python reference/study/plot.py WORK OUT

`OUT/text.svg`: over the text they have read, the teacher's held-out perplexity, and how often each student's first
guess at a masked word is the teacher's.
`OUT/scores.svg`: the scores of all models, task by task.
"""

import argparse
import json
import statistics
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from table import by_model, read

TOKENS_A_STEP = 4096


def held_out(run: Path, name: str) -> tuple[list[float], list[float]]:
    """Millions of tokens read, and the value of this name."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    measured = [line for line in lines if line["kind"] == "held_out" and name in line]
    return [line["step"] * TOKENS_A_STEP / 1e6 for line in measured], [line[name] for line in measured]


def text(work: Path, out: Path) -> None:
    """Distillation masks rare words more often than pre-training does, so perplexities of the two do not compare."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    left.plot(*held_out(work / "teacher", "perplexity"), marker=".")
    left.set(title="teacher", xlabel="million tokens read", ylabel="held-out perplexity", yscale="log")
    for run in sorted(work.glob("*/metrics.jsonl")):
        tokens, values = held_out(run.parent, "teacher_agreement")
        if values:
            right.plot(tokens, [100 * value for value in values], marker=".", label=run.parent.name)
    right.set(title="students", xlabel="million tokens read", ylabel="teacher's first guess at masked words, %")
    for axes in (left, right):
        axes.grid(alpha=0.3, which="both")
    right.legend()
    figure.savefig(out / "text.svg", bbox_inches="tight")


def scores(work: Path, out: Path) -> None:
    models = by_model(read(work))
    tasks = list(dict.fromkeys(task for scores in models.values() for task in scores))
    figure, axes = plt.subplots(figsize=(9, 4))
    width = 0.8 / len(models)
    for index, (name, own) in enumerate(models.items()):
        places = [place + index * width for place, task in enumerate(tasks) if task in own]
        means = [statistics.mean(own[task]) for task in tasks if task in own]
        spreads = [statistics.stdev(own[task]) if len(own[task]) > 1 else 0.0 for task in tasks if task in own]
        axes.bar(places, means, width, yerr=spreads, label=name)
    axes.set(ylabel="score in percent", xticks=[place + 0.4 - width / 2 for place in range(len(tasks))])
    axes.set_xticklabels(tasks)
    axes.grid(alpha=0.3, axis="y")
    axes.legend(ncols=3, fontsize="small")
    figure.savefig(out / "scores.svg", bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="the folder of run.py")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    # The same file from the same numbers.
    matplotlib.rcParams |= {"svg.hashsalt": "study", "svg.fonttype": "none"}
    arguments.out.mkdir(parents=True, exist_ok=True)
    text(arguments.work, arguments.out)
    scores(arguments.work, arguments.out)


if __name__ == "__main__":
    main()
