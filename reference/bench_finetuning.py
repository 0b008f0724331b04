"""Times fine-tuning on SST-2 with `distilbert` and with PyTorch (`finetune_sst2.py`), in turns.

    python reference/bench_finetuning.py MODEL DATA --distilbert target/release/distilbert

MODEL is a Hugging Face folder, DATA the folder of `train.tsv` and `dev.tsv`. Each turn trains on the first --few
sentences and on the first --many; the difference of the two times is that of training the sentences between, without
loading, compiling and scoring. Both programs score the same few sentences of dev at the end, and pad or pack the same
lengths. Prints a JSON object: sentences per second of every turn and the ratio of the medians.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DEV_SENTENCES = 64


def first_lines(source: Path, target: Path, sentences: int) -> None:
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    target.write_text("".join(lines[: sentences + 1]), encoding="utf-8")


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a Hugging Face folder")
    parser.add_argument("data", type=Path, help="the folder of train.tsv and dev.tsv")
    parser.add_argument("--distilbert", type=Path, required=True, help="the built program")
    parser.add_argument("--precision", nargs="+", default=["f32"], choices=("f32", "bf16"), help="default f32")
    parser.add_argument("--few", type=int, default=320, help="sentences (default %(default)s)")
    parser.add_argument("--many", type=int, default=1600, help="sentences (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="default %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default %(default)s")
    arguments = parser.parse_args()
    torch_script = str(Path(__file__).with_name("finetune_sst2.py"))
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        parts = {}
        for count in (arguments.few, arguments.many):
            parts[count] = Path(folder) / str(count)
            parts[count].mkdir()
            first_lines(arguments.data / "train.tsv", parts[count] / "train.tsv", count)
            first_lines(arguments.data / "dev.tsv", parts[count] / "dev.tsv", DEV_SENTENCES)

        def ours(count: int, precision: str) -> list[str]:
            run = Path(folder) / f"run-{time.monotonic_ns()}"
            command = [str(arguments.distilbert), "finetune", "--model", arguments.model, "--task", "sst2", "--quiet"]
            command += ["--data", str(parts[count]), "--output", str(run), "--epochs", "1", "--batch-size", "32"]
            return [*command, "--threads", str(arguments.threads), "--precision", precision]

        def pytorch(count: int, precision: str) -> list[str]:
            command = [sys.executable, torch_script, arguments.model, str(parts[count]), "--epochs", "1"]
            return [*command, "--batch", "32", "--threads", str(arguments.threads), "--precision", precision]

        for _ in range(arguments.rounds):
            for precision in arguments.precision:
                for name, command in (("distilbert", ours), ("PyTorch", pytorch)):
                    spent = seconds(command(arguments.many, precision)) - seconds(command(arguments.few, precision))
                    rate = (arguments.many - arguments.few) / spent
                    rates.setdefault(f"{name} {precision}", []).append(round(rate, 1))
    report: dict[str, object] = {"sentences_per_second": rates, "threads": arguments.threads}
    for precision in arguments.precision:
        medians = [statistics.median(rates[f"{name} {precision}"]) for name in ("distilbert", "PyTorch")]
        report[f"ratio {precision}"] = round(medians[0] / medians[1], 2)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
