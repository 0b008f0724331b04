"""One peer in one process, told what to do by `compare.py` in lines of JSON on standard input.

`{"load": [BATCH, ...]}` prepares the batches and runs the first, uncounted. `{"seconds": S}` runs all of them again
and again for that long, at least once, and answers the seconds of each pass. `{"output": BATCH}` answers the numbers at
real tokens. A batch is a list of lists of token ids.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from contenders import CONTENDERS, Batch, Runner


def passes(runner: Runner, fed: list[Any], seconds: float) -> list[float]:
    # A pass before, uncounted, as the process may have slept; of a long pass the first batch will do.
    runner.run(fed[0])
    times: list[float] = []
    start = time.perf_counter()
    while not times or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        for batch in fed:
            runner.run(batch)
        times.append(time.perf_counter() - before)
    return times


def output(runner: Runner, batch: Batch) -> list[float]:
    runner.shape([batch])
    found = runner.run(runner.feed(batch))
    rows = found if found.ndim == 2 else [found[row, : len(ids)] for row, ids in enumerate(batch)]
    return [float(x) for row in rows for x in row.ravel()]


def main() -> None:
    folder, work, threads, precision, peer, variant = sys.argv[1:]
    # Libraries write to standard output too; the answers keep it to themselves.
    answers = sys.stdout
    sys.stdout = sys.stderr
    runner = CONTENDERS[precision][peer, variant](Path(folder), work, int(threads))
    fed: list[Any] = []
    for line in sys.stdin:
        command = json.loads(line)
        answer: Any = None
        if "load" in command:
            fed.clear()
            runner.shape(command["load"])
            fed = [runner.feed(batch) for batch in command["load"]]
            runner.run(fed[0])
        elif "output" in command:
            answer = output(runner, command["output"])
        else:
            answer = passes(runner, fed, command["seconds"])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
