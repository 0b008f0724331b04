"""`distilbert serve` and its peers under the same load, in turns: one server at a time, each several times.

    compare.py --binary distilbert --model MODEL --peers OUT --python venv/bin/python --texts texts.txt

OUT is what `peer_server.py prepare` wrote; `--python` runs the peers. Prints a line of JSON a run (of `load.py`), and
at the end for each server the median of its runs with their spread, and throughput and p99 against the first one's.
Runs without any answer are counted there and left out of both.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
MEASURED = ("requests_per_s", "texts_per_s", "latency_ms_p50", "latency_ms_p99", "server_cpu_ms_per_request")


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
    ours = [args.binary, "serve", "--model", f"embed={args.model}", "--log", "none"]
    all_commands = {}
    for name in args.servers:
        kind, *options = name.split(":")
        if kind == "distilbert":
            all_commands[name] = [*ours, *(part for option in options for part in option.split("="))]
        else:
            peer = [args.python, str(HERE / "peer_server.py"), "serve", str(args.peers), "--engine", kind]
            all_commands[name] = [*peer, *(part for option in options for part in option.split("="))]
    return all_commands


def wait(url: str, process: subprocess.Popen) -> None:
    body = json.dumps({"inputs": "warm"}).encode()
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit("the server ended")
        try:
            request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
            urllib.request.urlopen(request, timeout=5).read()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server does not answer")


def run(name: str, command: list[str], port: int, args: argparse.Namespace) -> dict:
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}/embed"
        wait(url, process)
        load = [
            sys.executable,
            str(HERE / "load.py"),
            "--url",
            url,
            "--texts",
            str(args.texts),
            "--pid",
            str(process.pid),
        ]
        load += ["--connections", str(args.connections), "--seconds", str(args.seconds), "--batch", args.batch]
        result = json.loads(subprocess.run(load, capture_output=True, text=True, check=True).stdout)
    finally:
        process.terminate()
        process.wait()
    print(json.dumps({"server": name, **result}), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/distilbert")
    parser.add_argument("--model", required=True)
    parser.add_argument("--peers", type=Path, default=Path("peer"))
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument(
        "--servers",
        type=lambda text: text.split(","),
        default=["distilbert", "onnxruntime", "pytorch"],
        help="with options behind colons, as in distilbert:--batch-tokens=1024,onnxruntime:--batch-texts=8",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--batch", default="1", help="texts of a request, as load.py takes them")
    args = parser.parse_args()
    results: dict[str, list[dict]] = {name: [] for name in args.servers}
    for round_ in range(args.rounds):
        for place, (name, command) in enumerate(commands(args).items()):
            results[name].append(run(name, command, 9200 + 20 * round_ + place, args))
    first: dict[str, float] = {}
    for place, (name, runs) in enumerate(results.items()):
        summary: dict[str, str | float] = {"server": name}
        answered = [run for run in runs if all(key in run for key in MEASURED)]
        if len(answered) < len(runs):
            summary["runs_without_answer"] = len(runs) - len(answered)
        if answered:
            values = {key: sorted(run[key] for run in answered) for key in MEASURED}
            summary |= {key: f"{statistics.median(v):g} ({v[0]:g} to {v[-1]:g})" for key, v in values.items()}
            middle = {key: statistics.median(v) for key, v in values.items()}
            if place == 0:
                first = middle
            if first:
                summary["throughput_of_first"] = round(middle["texts_per_s"] / first["texts_per_s"], 2)
                summary["p99_of_first"] = round(middle["latency_ms_p99"] / first["latency_ms_p99"], 2)
        print(json.dumps(summary))


if __name__ == "__main__":
    main()
