"""What is not a matter of rounds: long queues, memory over a million calls, the time of an import."""

from __future__ import annotations

import asyncio
import json
import secrets
import statistics
import sys
import time
from typing import Any, Final

from .contestant import FOLDER, BenchError, Process
from .measure import Bench, Outcome
from .scenarios import Entry

TOP: Final = FOLDER.parents[1]
QUEUE_RATIO, MEMORY_GROWTH = 1.1, 1.05
IMPORTS: Final = (("python", 120.0), ("ruby", 120.0), ("node", 80.0))
"""Language, and the goal in ms."""
_IMPORT: Final = {
    "python": [sys.executable, "-c", "import time; t = time.perf_counter(); import sabir; print((time.perf_counter() - t) * 1e3)"],
    "ruby": ["ruby", f"-I{TOP / 'ruby/lib'}", "-e", "t = Process.clock_gettime(1); require 'sabir'; p((Process.clock_gettime(1) - t) * 1e3)"],
    "node": [
        "node",
        "--input-type=module",
        "-e",
        f"const t = performance.now(); await import({json.dumps(str(TOP / 'node/src/index.js'))}); console.log(performance.now() - t)",
    ],
}  # fmt: skip
_CHUNK: Final = 1_000


async def imports(times: int) -> list[Outcome]:
    """How long the import of each port takes, in a new process each time: the median, in ms."""
    outcomes = []
    for language, goal in IMPORTS:
        took = []
        for _ in range(times):
            child = await asyncio.create_subprocess_exec(*_IMPORT[language], stdout=asyncio.subprocess.PIPE)
            took.append(float((await child.communicate())[0]))
        outcomes.append(Outcome(f"import, {language}", goal, False, statistics.median(took), "ms"))
    return outcomes


async def long_queue(bench: Bench, who: tuple[str, ...], waiting: int, times: int) -> list[Outcome]:
    """What a request costs, all CPU, where so many wait in its own queue, compared to a twentieth of them."""
    outcomes = []
    few, taken = waiting // 20, waiting // 40
    for name in who:
        what = f"{waiting:,} requests wait, {name}, all CPU"
        ratios = []
        for number in range(times):
            bench.tell(f"{what}: {number + 1} of {times}")
            long = await _drain(bench, name, waiting, taken)
            short = await _drain(bench, name, few, taken)
            ratios.append(long / short)
        outcomes.append(Outcome(what, QUEUE_RATIO, False, statistics.median(ratios)))
    return outcomes


async def _drain(bench: Bench, name: str, waiting: int, taken: int) -> float:
    """Seconds of computing of worker and Redis for each of the first so many of the requests that wait."""
    contestant = bench.known[name]
    place = bench.place()
    prefix = f"sabir:{{{place['service']}}}:"
    queue = f"{prefix}requests"
    element = {"v": 1, "id": "", "reply_to": f"bench.{secrets.token_hex(8)}"}
    body = {"jsonrpc": "2.0", "id": "", "method": "echo", "params": ["x" * 100]}
    text = json.dumps({**element, "body": body}, separators=(",", ":"))
    for _ in range(0, waiting, _CHUNK):
        ids = [secrets.token_hex(16) for _ in range(_CHUNK)]
        await bench.run("RPUSH", queue, *(text.replace('"id":""', f'"id":"{id}"') for id in ids))
    worker = await Process.start(contestant, "worker", place)
    try:
        begin = await _point(bench, worker, queue)
        while (end := await _point(bench, worker, queue))[0] > begin[0] - taken and end[0]:
            await asyncio.sleep(0.01)
    finally:
        await worker.end()
        for key in await bench.run("KEYS", f"{prefix}*"):  # it is a server of our own
            await bench.run("UNLINK", key)
    if begin[0] == end[0]:
        raise BenchError(f"{contestant.title}: expected requests to be taken, {end[0]} are left of {waiting}")
    return (end[1] - begin[1]) / (begin[0] - end[0])


async def _point(bench: Bench, worker: Process, queue: str) -> tuple[int, float]:
    return int(await bench.run("LLEN", queue)), await bench.redis_cpu() + worker.cpu()


async def memory(bench: Bench, who: tuple[str, ...], calls: int, in_flight: int) -> tuple[list[Outcome], dict[str, Any]]:
    """How much client and worker grow over so many calls, of which 1 % time out, after the first twentieth."""
    outcomes = []
    samples: dict[str, Any] = {}
    settled = calls // 20
    for name in who:
        lanes = in_flight if name != "sabir-python" else 8
        order = {"in_flight": lanes, "bytes": 100, "time_outs": 100, "calls": settled}
        pair = await bench.pair(Entry(name, order))
        seen: list[tuple[int, int]] = []
        begin = time.monotonic()
        try:
            for done in range(settled, calls + 1, settled):
                bench.tell(f"memory of {name}: {done:,} of {calls:,} calls, {time.monotonic() - begin:.0f} s")
                await pair.client.ask(order, 600)
                seen.append((pair.client.rss(), pair.workers[0].rss()))
        finally:
            await pair.end()
        samples[name] = seen
        for index, role in enumerate(("client", "worker")):
            growth = max(one[index] for one in seen[1:]) / seen[0][index]
            outcomes.append(Outcome(f"memory over {calls:,} calls, {name}, {role}", MEMORY_GROWTH, False, growth))
    return outcomes, samples
