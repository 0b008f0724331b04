"""A server under mixed load with faults, every answer compared with the library's own.

    soak.py --binary distilbert --embed MODEL --classify MODEL --texts texts.txt --seconds 600

Starts `distilbert serve`. What it must answer is asked of `distilbert predict` first. Then, at once and until the time
is over: clients whose answers must be those bit for bit, over routes of every protocol and requests of one text or
many; clients that go while their request runs; bodies that are no JSON, or too large, or of which half never comes;
what is no HTTP; and every 10 seconds both models loaded anew in their own place. 429 with `Retry-After` is an answer:
the client comes again. Anything else that is not expected is counted as wrong, and a connection that ends or hangs
without an answer as lost. At the end the server is asked to stop and must end with exit code 0; if it ends otherwise,
the report has the last lines of its stderr. Only the standard library.
"""

import argparse
import asyncio
import json
import random
import re
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

FAULTS = ("gone", "half", "malformed", "oversize", "slow", "garbage")
TEXTS = 400
CUT_OFF = (BrokenPipeError, ConnectionResetError, asyncio.IncompleteReadError)


def narrow(number: float) -> float:
    """To the f32 that it stands for."""
    return struct.unpack("f", struct.pack("f", number))[0]


def predict(binary: str, arguments: list[str], texts: list[str]) -> list:
    lines = "\n".join(texts) + "\n"
    answer = subprocess.run([binary, "predict", *arguments], input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in answer.stdout.splitlines()]


class Server:
    def __init__(self, args: argparse.Namespace) -> None:
        models = ["--model", f"embed={args.embed}", "--model", f"labels={args.classify}"]
        command = [args.binary, "serve", "--port", "0", "--manage-port", "0", "--log", "none", "--io-timeout", "5"]
        command += [*models, *args.more]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace")
        self.port = self.manage = 0
        self.last: deque[str] = deque(maxlen=20)
        # Reads until the server has ended, so that the pipe is never full.
        self.drain = threading.Thread(target=lambda: self.last.extend(self.process.stderr), daemon=True)

    def start(self) -> None:
        for line in self.process.stderr:
            self.last.append(line)
            if found := re.search(r"managing models on http://[^:]+:(\d+)", line):
                self.manage = int(found[1])
            if found := re.search(r"listening on http://[^:]+:(\d+)", line):
                self.port = int(found[1])
                self.drain.start()
                return
        raise SystemExit("the server did not start\n" + "".join(self.last))

    def stop(self) -> int:
        self.process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
        finally:
            self.process.kill()
        return self.process.wait()

    def last_lines(self) -> list[str]:
        self.drain.join(5)
        return [line.rstrip("\n") for line in list(self.last)]

    def memory_mb(self) -> float:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0.0


def request(path: str, body: bytes, method: str = "POST", length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: soak\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
    return head.encode() + body


@asynccontextmanager
async def connection(
    port: int, source: str = "127.0.0.1"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    try:
        yield reader, writer
    except BaseException:
        # At once: `close` first sends what waits, which a server that hangs does not take.
        writer.transport.abort()
        raise
    writer.close()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in head[1:] if ": " in line)
    return int(head[0].split(" ", 2)[1]), headers, await reader.readexactly(int(headers.get("content-length", 0)))


def openai_rows(answer: dict[str, Any]) -> list[list[float]]:
    return [row["embedding"] for row in answer["data"]]


def tensor_rows(answer: dict[str, Any], width: int) -> list[list[float]]:
    flat = answer["outputs"][0]["data"]
    return [flat[i : i + width] for i in range(0, len(flat), width)]


def right(check: Callable[[Any], bool], answer: bytes) -> bool:
    try:
        return check(json.loads(answer))
    except Exception:  # no JSON, or not of the shape that it must have
        return False


class Soak:
    def __init__(self, args: argparse.Namespace, server: Server, texts: list[str], vectors: list, labels: list) -> None:
        self.args, self.server, self.texts = args, server, texts
        self.vectors = [[narrow(x) for x in vector] for vector in vectors]
        self.labels = [{row["label"]: narrow(row["score"]) for row in rows} for rows in labels]
        self.counts: dict[str, int] = {}
        self.wrong: list[str] = []
        self.lost: list[str] = []
        self.memory: list[float] = []
        self.end = time.monotonic() + args.seconds

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def failed(self, what: str, error: Exception) -> None:
        """Without an answer it is lost; an answer that is no HTTP is wrong."""
        failures = self.lost if isinstance(error, (OSError, asyncio.IncompleteReadError)) else self.wrong
        failures.append(f"{what}: {error!r}")

    def running(self) -> bool:
        return time.monotonic() < self.end

    def check_vectors(self, rows: list, places: list[int]) -> bool:
        return [[narrow(x) for x in row] for row in rows] == [self.vectors[place] for place in places]

    def check_labels(self, rows: list, places: list[int]) -> bool:
        found = [{row["label"]: narrow(row["score"]) for row in ranked} for ranked in rows]
        return found == [self.labels[place] for place in places]

    def question(self, rng: random.Random) -> tuple[str, dict[str, object], Callable[[Any], bool]]:
        """A path, a body, and the check of its answer."""
        places = [rng.randrange(len(self.texts)) for _ in range(rng.choice((1, 1, 1, 4, 16, 64)))]
        texts = [self.texts[place] for place in places]
        match rng.choice(("embed", "openai", "v2", "predict", "classify")):
            case "embed":
                return "/embed", {"model": "embed", "inputs": texts}, lambda a: self.check_vectors(a, places)
            case "openai":
                body = {"model": "embed", "input": texts}
                return "/v1/embeddings", body, lambda a: self.check_vectors(openai_rows(a), places)
            case "v2":
                tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
                width = len(self.vectors[0])
                body = {"inputs": [tensor]}
                return "/v2/models/embed/infer", body, lambda a: self.check_vectors(tensor_rows(a, width), places)
            case "predict":
                body = {"model": "labels", "inputs": [[text] for text in texts]}
                return "/predict", body, lambda a: self.check_labels(a, places)
            case _:
                body = {"model": "labels", "inputs": texts, "parameters": {"top_k": None}}
                return "/classify", body, lambda a: self.check_labels(a, places)

    async def client(self, seed: int) -> None:
        rng = random.Random(seed)
        while self.running():
            path = "connecting"
            try:
                async with connection(self.server.port) as (reader, writer):
                    for _ in range(rng.randrange(1, 50)):
                        path, body, check = self.question(rng)
                        sent = request(path, json.dumps(body).encode())
                        writer.write(sent)
                        status, headers, answer = await asyncio.wait_for(read_answer(reader), 90)
                        self.count(f"{path} {status}")
                        if status == 429 and "retry-after" in headers:
                            await asyncio.sleep(rng.random())
                        elif status != 200 or not right(check, answer):
                            self.wrong.append(f"{path} {len(sent)} bytes: {status} {answer[:200]!r}")
                        if not self.running():
                            break
            except Exception as error:
                self.failed(path, error)
                await asyncio.sleep(0.1)

    async def faulty(self, seed: int) -> None:
        rng = random.Random(seed)
        while self.running():
            fault = rng.choice(FAULTS)
            try:
                await asyncio.wait_for(self.fault(fault, rng), 60)
            except Exception as error:
                # Cut off in the middle: what a server may do with what is no HTTP.
                if fault == "garbage" and isinstance(error, CUT_OFF):
                    self.count("garbage cut off")
                else:
                    self.failed(fault, error)
            await asyncio.sleep(rng.random() * 0.2)

    async def fault(self, fault: str, rng: random.Random) -> None:
        path, body, _ = self.question(rng)
        body = json.dumps(body).encode()
        expected: tuple[int, ...] = ()
        async with connection(self.server.port) as (reader, writer):
            match fault:
                case "gone":
                    writer.write(request(path, body))
                    await writer.drain()
                    await asyncio.sleep(rng.random() * 0.05)
                case "half":
                    writer.write(request(path, body)[: rng.randrange(1, 120)])
                    await writer.drain()
                case "malformed":
                    place = rng.randrange(len(body))
                    writer.write(request(path, body[:place] + rng.randbytes(8) + body[place:]))
                    # Now and then it is JSON still.
                    expected = (200, 400, 404, 422, 429)
                case "oversize":
                    writer.write(request(path, b" " * 3_000_000))
                    expected = (413,)
                case "slow":
                    sent = request(path, body)
                    writer.write(sent[:-1])
                    await writer.drain()
                    expected = (408, 429)
                case "garbage":
                    writer.write(rng.randbytes(rng.randrange(1, 2000)) + b"\r\n\r\n")
                    expected = (400,)
            if expected:
                status, _, answer = await read_answer(reader)
                self.count(f"{fault} {status}")
                if status not in expected:
                    self.wrong.append(f"{fault}: {status} {answer[:200]!r}")
            else:
                self.count(fault)

    async def reload(self) -> None:
        while self.running():
            await asyncio.sleep(10)
            for name, source in (("embed", self.args.embed), ("labels", self.args.classify)):
                try:
                    async with connection(self.server.manage) as (reader, writer):
                        writer.write(request(f"/models/{name}", json.dumps({"source": source}).encode(), "PUT"))
                        status, _, answer = await asyncio.wait_for(read_answer(reader), 90)
                except Exception as error:
                    self.failed("reload", error)
                    continue
                self.count(f"reload {status}")
                if status != 200:
                    self.wrong.append(f"reload: {status} {answer[:200]!r}")

    async def watch(self) -> None:
        while self.running() and self.server.process.poll() is None:
            self.memory.append(self.server.memory_mb())
            await asyncio.sleep(1)
        # If the server has ended, nobody goes on.
        self.end = time.monotonic()

    async def run(self) -> dict:
        started = time.monotonic()
        clients = [self.client(self.args.seed * 1000 + i) for i in range(self.args.clients)]
        faulty = [self.faulty(self.args.seed * 1000 + 500 + i) for i in range(self.args.faulty)]
        await asyncio.gather(*clients, *faulty, self.reload(), self.watch())
        ended = self.server.process.poll() is not None
        if ended:
            self.wrong.insert(0, "the server ended by itself")
        code = await asyncio.to_thread(self.server.stop)
        # The first tenth is warming up: buffers grow to the largest batch.
        quarters = [self.memory[len(self.memory) * i // 10 : len(self.memory) * (i + 3) // 10] for i in (1, 4, 7)]
        report = {
            "seconds": round(time.monotonic() - started),
            "answers_compared": sum(
                n for what, n in self.counts.items() if what.startswith("/") and what.endswith(" 200")
            ),
            "wrong": len(self.wrong),
            "lost": len(self.lost),
            "counts": dict(sorted(self.counts.items())),
            "memory_mb_highest": round(max(self.memory, default=0)),
            "memory_mb_highest_by_third": [round(max(part)) for part in quarters if part],
            "exit_code": code,
            "examples": (self.wrong + self.lost)[:10],
        }
        if ended or code != 0:
            report["stderr"] = self.server.last_lines()
        return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/distilbert")
    parser.add_argument("--embed", required=True, help="a sentence encoder")
    parser.add_argument("--classify", required=True, help="a classifier of single texts")
    parser.add_argument("--texts", type=Path, required=True, help="a text a line")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--faulty", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("more", nargs="*", help="behind --: more arguments of the server")
    args = parser.parse_args()
    lines = [line for line in args.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    texts = random.Random(args.seed).sample(lines, min(TEXTS, len(lines)))
    vectors = predict(args.binary, ["embed", "--model", args.embed], texts)
    labels = predict(args.binary, ["classify", "--model", args.classify, "--json", "--top-k", "100000"], texts)
    server = Server(args)
    try:
        server.start()
        result = asyncio.run(Soak(args, server, texts, vectors, labels).run())
    finally:
        server.stop()
    print(json.dumps(result, indent=2))
    raise SystemExit(0 if not result["wrong"] and not result["lost"] and result["exit_code"] == 0 else 1)


if __name__ == "__main__":
    main()
