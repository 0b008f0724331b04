"""Writes the tables of `docs/results/peers.md` from what `compare.py` measured.

Rounds of one row and commit are taken together, whether measured in one call or several; another commit replaces them.
A cell is the median over the rounds, with the smallest and the largest in brackets.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from compare import OURS, SHAPES

Result = dict[str, Any]
PEERS = ("PyTorch", "ONNX Runtime", "OpenVINO", "CTranslate2")
PRECISIONS = ("f32", "bf16", "int8")
WORKS = {
    "all-states": "Equal work: every token's state in the last layer",
    "as-used": "As used: classification, where rows that no answer depends on may be left out",
}
# What the project set itself, as a ratio against the best peer of the row.
BARS = {"all-states": {"f32": 1.1, "bf16": 1.0, "int8": 1.1}, "as-used": {"f32": 1.2, "bf16": 1.2, "int8": 1.25}}
ROW_BARS = {"1 x 16": 1.3, "texts": 3.0, "texts, sorted": 1.3}


def read(path: Path) -> dict[tuple[str, ...], Result]:
    """What was measured last, by model, work, row and precision."""
    latest: dict[tuple[str, ...], Result] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        result = json.loads(line)
        key = tuple(result[name] for name in ("model", "work", "row", "precision"))
        before = latest.get(key)
        latest[key] = result
        if before and before["commit"] == result["commit"] and before["threads"] == result["threads"]:
            for old in before["contenders"]:
                same = [new for new in result["contenders"] if contender(new) == contender(old)]
                for new in same:
                    new["seconds"] = old["seconds"] + new["seconds"]
                if not same:
                    result["contenders"].append(old)
    return latest


def contender(found: Result) -> str:
    return ", ".join(filter(None, (found["contender"], found["variant"])))


def bar(result: Result) -> float:
    return ROW_BARS.get(result["row"], BARS[result["work"]][result["precision"]])


def best(result: Result, name: str) -> Result | None:
    """The fastest way in which this contender ran the row."""
    ways = [found for found in result["contenders"] if found["contender"] == name]
    return min(ways, key=lambda way: statistics.median(way["seconds"]), default=None)


def cell(result: Result, found: Result | None) -> str:
    if found is None:
        return "-"
    seconds = found["seconds"]
    if result["row"] in SHAPES:
        numbers = [1e3 * value for value in (statistics.median(seconds), min(seconds), max(seconds))]
    else:
        numbers = [result["tokens"] / value for value in (statistics.median(seconds), max(seconds), min(seconds))]
    median, low, high = (f"{number:,.{2 if number < 10 else 1 if number < 100 else 0}f}" for number in numbers)
    return f"{median} ({low} to {high})"


def table(results: list[Result]) -> list[str]:
    lines = [
        f"| row | precision | {OURS} | {' | '.join(PEERS)} | best peer | ratio | bar |",
        "| --- | --- | ---: | " + "---: | " * len(PEERS) + "--- | ---: | ---: |",
    ]
    for result in results:
        ours = best(result, OURS)
        peers = {name: best(result, name) for name in PEERS}
        ran = {name: statistics.median(found["seconds"]) for name, found in peers.items() if found}
        first = min(ran, key=ran.__getitem__)
        variant = peers[first]["variant"]
        ratio = f"{ran[first] / statistics.median(ours['seconds']):.2f}" if ours else "-"
        unit = "ms" if result["row"] in SHAPES else "tokens/s"
        cells = [cell(result, found) for found in (ours, *peers.values())]
        leader = f"{first}, {variant}" if variant else first
        columns = [f"{result['row']}, {unit}", result["precision"], *cells, leader, ratio, str(bar(result))]
        lines.append(f"| {' | '.join(columns)} |")
    return lines


def shares(results: list[Result]) -> list[str]:
    lines = ["| row | precision | GFLOP/s | measured peak | share |", "| --- | --- | ---: | ---: | ---: |"]
    for result in results:
        if ours := best(result, OURS):
            rate, peak, share = ours["gflops"], ours["peak_gflops"], ours["share_of_peak"]
            lines.append(
                f"| {result['row']} | {result['precision']} | {rate:,.0f} | {peak:,.0f} | {100 * share:.0f} % |"
            )
    return lines


def ways(results: list[Result]) -> list[str]:
    lines = ["| work | row | precision | contender | median (range) |", "| --- | --- | --- | --- | ---: |"]
    for result in results:
        for found in result["contenders"]:
            columns = [result["work"], result["row"], result["precision"], contender(found), cell(result, found)]
            lines.append(f"| {' | '.join(columns)} |")
    return lines


def agreement(results: list[Result]) -> list[str]:
    worst: dict[tuple[str, str], float] = {}
    for result in results:
        for found in result["agreement"]:
            key = (result["work"], contender(found))
            worst[key] = max(worst.get(key, 0.0), found["difference"])
    lines = ["| work | contender | largest difference |", "| --- | --- | ---: |"]
    return lines + [f"| {work} | {name} | {difference:.1e} |" for (work, name), difference in worst.items()]


def headline(results: list[Result]) -> list[str]:
    lines = ["| program | BERT-base, s | DistilBERT-base, s | ratio |", "| --- | ---: | ---: | ---: |"]
    by_model = {result["model"]: result for result in results}
    for name in (OURS, "PyTorch"):
        seconds = [best(by_model[model], name) for model in ("bert", "distilbert") if model in by_model]
        if len(seconds) == 2 and all(seconds):
            teacher, student = (statistics.median(found["seconds"]) for found in seconds if found)
            lines.append(f"| {name} f32 | {teacher:.1f} | {student:.1f} | {teacher / student:.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="what compare.py wrote")
    parser.add_argument("page", type=Path, help="the page; what stands above the line with `<!-- tables -->` stays")
    arguments = parser.parse_args()

    latest = read(arguments.results)
    rows = (*SHAPES, "texts", "texts, sorted")
    order = [(work, row, precision) for work in WORKS for row in rows for precision in PRECISIONS]
    results = [latest["distilbert", *key] for key in order if ("distilbert", *key) in latest]
    pairs = [result for key, result in latest.items() if key[2] == "pairs" and key[1] == "as-used"]

    machines = {
        (r["cpu"], r["family"], r["threads"], r["commit"], json.dumps(r["versions"])) for r in (*results, *pairs)
    }
    lines = []
    for cpu, family, threads, commit, versions in sorted(machines):
        names = ", ".join(f"{name} {number}" for name, number in json.loads(versions).items())
        lines.append(f"- {cpu} (family/model {family}), {threads} threads, commit {commit}; {names}")
    for work, title in WORKS.items():
        if chosen := [result for result in results if result["work"] == work]:
            lines += ["", f"## {title}", "", *table(chosen)]
    if pairs:
        lines += ["", "## BERT-base against DistilBERT-base, one pair at a time", "", *headline(pairs)]
    states = [result for result in results if result["work"] == "all-states"]
    lines += ["", "## Share of the measured peak, all tokens' states", "", *shares(states)]
    lines += ["", "## The outputs agree", "", *agreement(results)]
    lines += ["", "## Every way that was measured", "", *ways(results)]
    head = arguments.page.read_text(encoding="utf-8").split("<!-- tables -->")[0] if arguments.page.exists() else ""
    arguments.page.write_text(f"{head}<!-- tables -->\n\n" + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
