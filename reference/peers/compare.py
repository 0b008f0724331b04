"""Times `distilbert` and its peers on the same work in one run, in turns, and appends the numbers to a JSON-lines file.

FOLDER is what `prepare.py` wrote. For each precision and row every contender gets a short slice of time, then the next
one, round after round, so that a noisy machine disturbs all alike; a contender's number is the median of its rounds.
Peers are long-lived processes, stopped (SIGSTOP) while it is another's turn: none spins beside another's slice, and
none has to give up its own way of waiting. `distilbert bench` runs anew in each slice and times itself. Token ids are
made before; padding and loading are not timed.

`render.py` makes the tables. Rows of one run can be measured in several calls.
"""

import argparse
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import transformers as hf

from contenders import CONTENDERS, Batch, Work

SEED = 7
SHAPES = {"1 x 16": (1, 16), "1 x 128": (1, 128), "8 x 128": (8, 128), "32 x 128": (32, 128), "1 x 384": (1, 384)}
TEXT_ROWS = ("texts", "texts, sorted", "pairs")
TEXT_BATCH = 32
RAGGED_LENGTHS = (17, 5, 64, 33)
PACKAGES = ("torch", "transformers", "onnxruntime", "openvino", "nncf", "ctranslate2")
OURS = "distilbert"


class Peer:
    """A peer's process; stopped except during its turn."""

    def __init__(self, folder: Path, work: Work, threads: int, precision: str, name: str, variant: str) -> None:
        self.name, self.variant = name, variant
        command = [sys.executable, str(Path(__file__).with_name("worker.py")), str(folder), work, str(threads)]
        self.process = subprocess.Popen(
            [*command, precision, name, variant],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # NumPy computes CTranslate2's head: its threads must not spin beside the peer's own.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        self.process.send_signal(signal.SIGSTOP)

    def ask(self, command: dict[str, Any]) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.name} {self.variant}: ended with code {self.process.wait()}")
        self.process.send_signal(signal.SIGSTOP)
        return json.loads(answer)

    def load(self, row: "Row") -> None:
        self.ask({"load": row.batches})

    def slice(self, row: "Row", seconds: float) -> float:
        return statistics.median(self.ask({"seconds": seconds}))

    def end(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


class Ours:
    """`distilbert bench`, a process for each slice."""

    name, variant = OURS, ""

    def __init__(self, binary: Path, folder: Path, work: Work, threads: int, precision: str) -> None:
        self.command = [str(binary), "--threads", str(threads), "--quiet", "bench", "--model", str(folder / "model")]
        self.command += ["--json", "--precision", precision, "--work", work, "--min-repeats", "1"]
        self.last: dict[str, Any] = {}

    def load(self, row: "Row") -> None:
        pass

    def slice(self, row: "Row", seconds: float) -> float:
        command = [*self.command, "--seconds", str(seconds), *row.bench_arguments]
        # A warning that texts were cut is no news: the peers' ids are cut to the same length.
        output = subprocess.run(command, capture_output=True, text=True, check=False)
        if output.returncode != 0:
            raise SystemExit(f"{' '.join(command)}: {output.stderr.strip()}")
        self.last = json.loads(output.stdout)
        if self.last["tokens"] != row.tokens:
            raise SystemExit(f"{row.name}: expected {row.tokens} tokens, found {self.last['tokens']} in {OURS}")
        return self.last["ms_p50"] / 1e3

    def end(self) -> None:
        pass


class Row:
    """The same work for all: batches of token ids for the peers, arguments for `distilbert bench`."""

    def __init__(self, name: str, batches: list[Batch], bench_arguments: list[str]) -> None:
        self.name, self.batches, self.bench_arguments = name, batches, bench_arguments
        self.tokens = sum(len(ids) for batch in batches for ids in batch)
        self.padded = sum(len(batch) * max(map(len, batch)) for batch in batches)


def make_row(name: str, folder: Path) -> Row:
    if name in SHAPES:
        size, seq = SHAPES[name]
        rng = random.Random(SEED)
        batch = [[rng.randrange(1000, 30_000) for _ in range(seq)] for _ in range(size)]
        return Row(name, [batch], ["--batch", str(size), "--seq", str(seq)])
    path = folder / ("pairs.txt" if name == "pairs" else "texts.txt")
    size = 1 if name == "pairs" else TEXT_BATCH
    tokenizer = hf.AutoTokenizer.from_pretrained(folder / "model")
    positions = hf.AutoConfig.from_pretrained(folder / "model").max_position_embeddings
    texts = path.read_text(encoding="utf-8").splitlines()
    ids: list[list[int]] = tokenizer(texts, truncation=True, max_length=positions)["input_ids"]
    if name == "texts, sorted":
        # For the peers only: what is not padded has nothing to gain from it.
        ids.sort(key=len)
    batches = [ids[start : start + size] for start in range(0, len(ids), size)]
    return Row(name, batches, ["--texts", str(path), "--batch", str(size)])


@contextmanager
def contenders(arguments: argparse.Namespace, work: Work, precision: str) -> Iterator[list[Peer | Ours]]:
    folder, threads = arguments.folder, arguments.threads
    chosen = [key for key in CONTENDERS[precision] if not arguments.only or key[0] in arguments.only]
    peers = [Peer(folder, work, threads, precision, *key) for key in chosen]
    ours = [] if arguments.only and OURS not in arguments.only else [OURS]
    try:
        yield [*(Ours(arguments.binary, folder, work, threads, precision) for _ in ours), *peers]
    finally:
        for peer in peers:
            peer.end()


def measure(row: Row, all_contenders: list[Peer | Ours], arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for contender in all_contenders:
        contender.load(row)
    rounds: list[list[float]] = [[] for _ in all_contenders]
    for number in range(arguments.rounds):
        for contender, seconds in zip(all_contenders, rounds, strict=True):
            seconds.append(contender.slice(row, arguments.seconds))
        print(f"{row.name}: round {number + 1} of {arguments.rounds}", file=sys.stderr)
    for contender, seconds in zip(all_contenders, rounds, strict=True):
        found: dict[str, Any] = {"contender": contender.name, "variant": contender.variant, "seconds": seconds}
        if isinstance(contender, Ours):
            keys = ("gflops", "peak_gflops", "share_of_peak", "resident_bytes", "load_seconds")
            found |= {key: contender.last[key] for key in keys}
        yield found


def agreement(all_contenders: list[Peer | Ours], arguments: argparse.Namespace, work: Work) -> Iterator[dict[str, Any]]:
    """Largest difference from PyTorch f32 on a ragged batch, as a share of its largest number."""
    rng = random.Random(SEED)
    batch = [[rng.randrange(1000, 30_000) for _ in range(length)] for length in RAGGED_LENGTHS]
    peers = [contender for contender in all_contenders if isinstance(contender, Peer)]
    reference = next((peer for peer in peers if peer.name == "PyTorch"), None)
    if reference is None:
        return
    expected = reference.ask({"output": batch})
    largest = max(map(abs, expected))
    for peer in peers:
        if peer is not reference:
            found = peer.ask({"output": batch})
            difference = max(abs(a - b) for a, b in zip(expected, found, strict=True)) / largest
            yield {"contender": peer.name, "variant": peer.variant, "difference": difference}
    if any(isinstance(contender, Ours) for contender in all_contenders):
        yield {"contender": OURS, "variant": "", "difference": our_difference(batch, arguments, work)}


def our_difference(batch: Batch, arguments: argparse.Namespace, work: Work) -> float:
    """What `distilbert verify` finds between our numbers and PyTorch's."""
    sys.path.append(str(Path(__file__).parents[1]))
    from common import load_model, pad, reference_tensors, save

    model = load_model(str(arguments.folder / "model"), unused_is_an_error=True)
    with tempfile.TemporaryDirectory() as folder:
        expected = Path(folder) / "expected.safetensors"
        save(expected, reference_tensors(model, pad(batch, 0)))
        command = [str(arguments.binary), "verify", str(arguments.folder / "model"), "--expected", str(expected)]
        output = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True, check=True)
    name = "logits" if work == "as-used" else f"hidden.{model.config.num_hidden_layers}"
    return next(c["difference"] for c in json.loads(output.stdout)["comparisons"] if c["name"] == name)


def machine(threads: int, commit: str) -> dict[str, Any]:
    """What every figure must name."""
    fields: dict[str, str] = {}
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = fields.get("model name", platform.processor())
    family = f"{fields['cpu family']}/{fields['model']}" if "cpu family" in fields else ""
    versions = {package: version(package) for package in PACKAGES}
    return {"cpu": name, "family": family, "threads": threads, "commit": commit, "versions": versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what prepare.py wrote")
    parser.add_argument("results", type=Path, help="the file to append to, one JSON object a row")
    parser.add_argument("--binary", type=Path, required=True, help="the built program, target/release/distilbert")
    parser.add_argument(
        "--commit", required=True, help="what the program was built from: git describe --always --dirty"
    )
    parser.add_argument("--work", nargs="+", choices=("all-states", "as-used"), default=["all-states", "as-used"])
    parser.add_argument("--precision", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--rows", nargs="+", choices=(*SHAPES, *TEXT_ROWS), default=list(SHAPES))
    parser.add_argument("--only", nargs="+", help="only these contenders, such as distilbert and OpenVINO")
    parser.add_argument("--rounds", type=int, default=5, help="slices of each contender a row (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a slice, at least a pass (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of every contender (default %(default)s)")
    arguments = parser.parse_args()

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    rows = [make_row(name, arguments.folder) for name in arguments.rows]
    config = hf.AutoConfig.from_pretrained(arguments.folder / "model")
    common = {"model": config.model_type, **machine(arguments.threads, arguments.commit)}
    for work in arguments.work:
        for precision in arguments.precision:
            with contenders(arguments, work, precision) as all_contenders, arguments.results.open("a") as results:
                agreeing = list(agreement(all_contenders, arguments, work)) if precision == "f32" else []
                for row in rows:
                    found = {
                        "row": row.name,
                        "work": work,
                        "precision": precision,
                        "tokens": row.tokens,
                        "padded_tokens": row.padded,
                        "contenders": list(measure(row, all_contenders, arguments)),
                        "agreement": agreeing,
                    }
                    print(json.dumps(common | found), file=results, flush=True)


if __name__ == "__main__":
    main()
