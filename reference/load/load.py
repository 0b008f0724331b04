"""Asks a server for embeddings over many connections at once and says how fast and how late the answers came.

    load.py --url http://127.0.0.1:8080/embed --texts texts.txt --connections 64 --seconds 20 --pid SERVER

A request has one text, or with --batch several sizes in turn. Every connection sends its next request when it has its
answer (a closed loop), so the load is as high as the server takes. Plain sockets: the load itself should cost little,
since it shares the cores; `server_cpu_ms_per_request` is what the server used, by /proc. Only the standard library.
"""

import argparse
import asyncio
import json
import os
import random
import time
from pathlib import Path
from urllib.parse import urlsplit


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, of its threads and of its ended children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(fields[place]) for place in (11, 12, 13, 14)) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = int(head.split(" ", 2)[1])
    length = next((int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:")), 0)
    return status, await reader.readexactly(length)


class Load:
    def __init__(self, args: argparse.Namespace, texts: list[str]) -> None:
        self.args, self.texts = args, texts
        url = urlsplit(args.url)
        self.host, self.port, self.path = url.hostname, url.port or 80, url.path or "/"
        self.latencies: list[float] = []
        self.statuses: dict[str, int] = {}
        self.answered_texts = 0
        self.begin = self.end = 0.0

    def request(self, rng: random.Random) -> tuple[bytes, int]:
        count = rng.choice(self.args.batch)
        inputs = [rng.choice(self.texts) for _ in range(count)]
        body = json.dumps({"inputs": inputs if count > 1 else inputs[0]}).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: load\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body, count

    async def client(self, seed: int) -> None:
        rng = random.Random(seed)
        reader, writer = await asyncio.open_connection(self.host, self.port)
        while time.perf_counter() < self.end:
            request, count = self.request(rng)
            started = time.perf_counter()
            writer.write(request)
            status, _ = await read_answer(reader)
            ended = time.perf_counter()
            # What begins before the warm-up is over, or ends too late, is not counted.
            if started >= self.begin and ended <= self.end:
                self.statuses[str(status)] = self.statuses.get(str(status), 0) + 1
                if status == 200:
                    self.latencies.append(ended - started)
                    self.answered_texts += count
        writer.close()

    async def run(self) -> dict:
        now = time.perf_counter()
        self.begin = now + self.args.warmup
        self.end = self.begin + self.args.seconds
        clients = [asyncio.create_task(self.client(self.args.seed * 100_000 + i)) for i in range(self.args.connections)]
        await asyncio.sleep(self.args.warmup)
        before = cpu_seconds(self.args.pid) if self.args.pid else 0.0
        own_before = time.process_time()
        await asyncio.sleep(self.args.seconds)
        used = cpu_seconds(self.args.pid) - before if self.args.pid else 0.0
        own = time.process_time() - own_before
        failed = [error for error in await asyncio.gather(*clients, return_exceptions=True) if error]
        latencies = sorted(self.latencies)
        if not latencies:
            return {"statuses": self.statuses, "broken_connections": len(failed)}

        def ms(share: float) -> float:
            return round(1e3 * latencies[min(len(latencies) - 1, int(share * len(latencies)))], 1)

        result = {
            "connections": self.args.connections,
            "requests_per_s": round(len(latencies) / self.args.seconds, 1),
            "texts_per_s": round(self.answered_texts / self.args.seconds, 1),
            "latency_ms_p50": ms(0.5),
            "latency_ms_p99": ms(0.99),
            "statuses": self.statuses,
            "broken_connections": len(failed),
            "load_cpu_s": round(own, 2),
        }
        if self.args.pid:
            result["server_cpu_ms_per_request"] = round(1e3 * used / len(latencies), 2)
            result["server_memory_mb"] = round(memory_mb(self.args.pid), 1)
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--texts", type=Path, required=True, help="a text a line")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument(
        "--batch",
        type=lambda text: [int(size) for size in text.split(",")],
        default=[1],
        help="texts of a request, e.g. 1,1,1,8",
    )
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--warmup", type=float, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pid", type=int, help="of the server")
    args = parser.parse_args()
    texts = [line for line in args.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    print(json.dumps(asyncio.run(Load(args, texts).run())))


if __name__ == "__main__":
    main()
