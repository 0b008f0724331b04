"""A server under a memory ceiling: large requests of every kind, and short ones beside them.

    memory.py --binary distilbert --embed MODEL --classify MODEL --texts texts.txt --limit 1000 --seconds 60

Starts `distilbert serve --memory-limit`. Clients send what takes much memory: one text of 2 MB, lists of numbers, many
texts, token states. They may be refused (413, 429). Others send one text at a time; of these none should be refused,
and every answer must be that of `predict`. Reports the most memory that the process held, the answers by status, and
the short requests' latency, at first without the large ones. Only the standard library.
"""

import argparse
import asyncio
import json
import random
import re
import statistics
import time
from collections import Counter
from pathlib import Path

from soak import Server, connection, narrow, predict, read_answer, request

REFUSED = (413, 429)
# Another client to the server than the one of the large requests, which has its own share of the queue.
SMALL_ADDRESS = "127.0.0.2"


def large(rng: random.Random, texts: list[str]) -> tuple[str, dict[str, object]]:
    size = rng.choice((200_000, 400_000, 900_000))
    match rng.choice(("letters", "wide", "word", "ids", "many", "states")):
        case "letters":
            return "/embed", {"model": "embed", "inputs": "a " * size, "truncate": True}
        case "wide":
            return "/embed", {"model": "embed", "inputs": "語" * (size // 2), "truncate": True}
        case "word":
            return "/classify", {"model": "labels", "inputs": "a" * (2 * size)}
        case "ids":
            return "/v1/embeddings", {"model": "embed", "input": [[2] * 200] * (size // 1000)}
        case "many":
            return "/embed", {"model": "embed", "inputs": rng.choices(texts, k=1000)}
        case _:
            return "/embed_all", {"model": "embed", "inputs": rng.choices(texts, k=300)}


class Run:
    def __init__(self, args: argparse.Namespace, server: Server, texts: list[str], vectors: list) -> None:
        self.args, self.server, self.texts = args, server, texts
        self.vectors = [[narrow(x) for x in vector] for vector in vectors]
        self.large: Counter[int] = Counter()
        self.small: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.end = 0.0

    async def send_large(self, seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < self.end:
            path, body = large(rng, self.texts)
            async with connection(self.server.port) as (reader, writer):
                writer.write(request(path, json.dumps(body, ensure_ascii=False).encode()))
                status, _, answer = await read_answer(reader)
            self.large[status] += 1
            if status != 200 and status not in REFUSED:
                self.wrong.append(f"{path}: {status} {answer[:200]!r}")
            if status in REFUSED:
                await asyncio.sleep(rng.random())

    async def send_small(self, seed: int, times: list[float]) -> None:
        rng = random.Random(seed)
        while time.monotonic() < self.end:
            place = rng.randrange(len(self.texts))
            body = json.dumps({"model": "embed", "inputs": self.texts[place]}).encode()
            started = time.monotonic()
            async with connection(self.server.port, SMALL_ADDRESS) as (reader, writer):
                writer.write(request("/embed", body))
                status, _, answer = await read_answer(reader)
            times.append(time.monotonic() - started)
            self.small[str(status) if status == 200 else f"{status} {json.loads(answer).get('error')}"] += 1
            if status == 200 and [narrow(x) for x in json.loads(answer)[0]] != self.vectors[place]:
                self.wrong.append(f"another vector for text {place}")
            await asyncio.sleep(0.05)

    async def phase(self, seconds: float, larges: int) -> dict[str, float]:
        self.end = time.monotonic() + seconds
        times: list[float] = []
        seed = self.args.seed * 1000
        small = [self.send_small(seed + client, times) for client in range(self.args.clients)]
        await asyncio.gather(*small, *(self.send_large(seed + 500 + client) for client in range(larges)))
        cuts = statistics.quantiles(times, n=100)
        return {"requests": len(times), "p50_ms": round(1000 * cuts[49]), "p99_ms": round(1000 * cuts[98])}

    async def run(self) -> dict[str, object]:
        alone = await self.phase(self.args.seconds / 4, 0)
        beside = await self.phase(self.args.seconds, self.args.large)
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        most = re.search(r"VmHWM:\s+(\d+)", status)
        code = await asyncio.to_thread(self.server.stop)
        return {
            "limit_mb": self.args.limit,
            "most_mb": int(most[1]) // 1024 if most else None,
            "small_alone": alone,
            "small_beside_large": beside,
            "small_by_status": dict(self.small),
            "large_by_status": dict(self.large),
            "wrong": len(self.wrong),
            "exit_code": code,
            "examples": self.wrong[:10],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/distilbert")
    parser.add_argument("--embed", required=True, help="a sentence encoder")
    parser.add_argument("--classify", required=True, help="a classifier of single texts")
    parser.add_argument("--texts", type=Path, required=True, help="a text a line")
    parser.add_argument("--limit", type=int, default=1000, help="of the server, in MB")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=4, help="that send short texts")
    parser.add_argument("--large", type=int, default=12, help="clients that send large requests")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.more = ["--memory-limit", f"{args.limit}M"]
    lines = [line for line in args.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    texts = random.Random(args.seed).sample(lines, min(200, len(lines)))
    vectors = predict(args.binary, ["embed", "--model", args.embed], texts)
    server = Server(args)
    try:
        server.start()
        result = asyncio.run(Run(args, server, texts, vectors).run())
    finally:
        server.stop()
    print(json.dumps(result, indent=2))
    kept = result["most_mb"] is not None and result["most_mb"] <= args.limit
    raise SystemExit(0 if kept and not result["wrong"] and result["exit_code"] == 0 else 1)


if __name__ == "__main__":
    main()
