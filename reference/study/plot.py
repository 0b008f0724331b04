"""Draws the plots of the distillation study from what `run.py` measured, as SVG.

    python reference/study/plot.py WORK OUT

`OUT/perplexity.svg`: the held-out perplexity of the teacher and of each student over the text they have read.
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


def held_out(run: Path) -> tuple[list[float], list[float]]:
    """Millions of tokens read, and perplexity."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    measured = [line for line in lines if line["kind"] == "held_out" and "perplexity" in line]
    return [line["step"] * TOKENS_A_STEP / 1e6 for line in measured], [line["perplexity"] for line in measured]


def perplexity(work: Path, out: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4))
    for run in sorted(work.glob("*/metrics.jsonl")):
        tokens, values = held_out(run.parent)
        if values:
            axes.plot(tokens, values, marker=".", label=run.parent.name)
    axes.set(xlabel="million tokens read", ylabel="held-out perplexity", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(out / "perplexity.svg", bbox_inches="tight")


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
    perplexity(arguments.work, arguments.out)
    scores(arguments.work, arguments.out)


if __name__ == "__main__":
    main()
