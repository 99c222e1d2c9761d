"""The lines that a contestant in Python speaks with the runner: see ../README.md."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import redis

ROLE: Final = sys.argv[1]
PLACE: Final[dict[str, Any]] = json.loads(sys.argv[2])
TIMEOUT: Final = 30.0
"""Seconds that a call may take."""
SLOW_MS: Final = 40
"""How long the handler of a call that is to time out waits; the call's own time-out is half of it."""


class Tally:
    """One order of the runner: when to stop, and what came of it."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.in_flight: int = order["in_flight"]
        self.text = "x" * order["bytes"]
        self._time_outs: int = order.get("time_outs", 0)
        self._left: int = order.get("calls", 1 << 60)
        self._keeps = "seconds" in order  # the time of each call; where memory is measured it would be our own
        self._took: list[int] = []
        self._answered = self._timed_out = self._wrong = 0
        self._began = time.perf_counter_ns()
        self._ends = self._began + int(order.get("seconds", 1e6) * 1e9)

    def turns(self) -> Iterator[bool]:
        """One for each call of a lane, until it is time to stop; true where the call is to time out."""
        while self._left > 0 and time.perf_counter_ns() < self._ends:
            self._left -= 1
            yield bool(self._time_outs) and self._left % self._time_outs == 0

    def took(self, begin: int, result: Any) -> None:
        """A call that began at perf_counter_ns() ``begin`` has ended with a result."""
        self._answered += 1
        if self._keeps:
            self._took.append(time.perf_counter_ns() - begin)
        self._wrong += result != self.text

    def timed_out(self) -> None:
        self._timed_out += 1

    @property
    def calls(self) -> int:
        """Those that have ended."""
        return self._answered + self._timed_out

    def told(self) -> str:
        seconds = (time.perf_counter_ns() - self._began) / 1e9
        took = sorted(self._took)
        p50, p99 = (took[int(len(took) * share)] / 1e3 if took else None for share in (0.5, 0.99))
        said = {"calls": self.calls, "seconds": seconds, "p50_us": p50, "p99_us": p99}
        return json.dumps({**said, "timed_out": self._timed_out, "wrong": self._wrong})


def impossible() -> Any:
    """For those that were not asked to time out."""
    raise NotImplementedError


_copies: list[int] = []
"""The processes that spread() has made; the last is 0 in one of them."""


def spread() -> None:
    """Go on as so many processes more as were asked for: workers that wait beside this one."""
    for _ in range(PLACE.get("copies", 0)):
        _copies.append(os.fork())
        if _copies[-1] == 0:
            return


def ready() -> None:
    """To be called when the worker serves, or the client has had its first answer."""
    if ROLE == "worker" and _copies:
        if _copies[-1] == 0:
            return
        with redis.Redis.from_url(PLACE["redis"]) as connection:
            while connection.info("clients")["blocked_clients"] < len(_copies):
                time.sleep(0.05)
    print("ready", flush=True)


def until_the_end() -> None:
    """End this process when the runner closes its input, whatever else it is doing."""

    def wait() -> None:
        while os.read(0, 65536):
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def orders(call: Callable[[str], Any], late: Callable[[], None] = impossible) -> None:
    """A client that blocks: carry out the runner's orders, with a thread for each call in flight.

    ``call``: returns what it was given, from the worker. ``late``: makes a call that times out.
    """
    call("x" * 100)
    ready()
    pool = ThreadPoolExecutor(1_000)  # starts no more threads than there are calls in flight
    for line in sys.stdin:
        tally = Tally(json.loads(line))

        def lane(tally: Tally = tally) -> None:
            for times_out in tally.turns():
                if times_out:
                    late()
                    tally.timed_out()
                else:
                    begin = time.perf_counter_ns()
                    tally.took(begin, call(tally.text))

        if tally.in_flight == 1:
            lane()
        else:
            for done in [pool.submit(lane) for _ in range(tally.in_flight)]:
                done.result()
        print(tally.told(), flush=True)


async def orders_asyncio(call: Callable[[str], Awaitable[Any]], late: Callable[[], Awaitable[None]] = impossible) -> None:
    """The same for asyncio, with a task for each call in flight."""
    await call("x" * 100)
    ready()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        tally = Tally(json.loads(line))

        async def lane(tally: Tally = tally) -> None:
            for times_out in tally.turns():
                if times_out:
                    await late()
                    tally.timed_out()
                else:
                    begin = time.perf_counter_ns()
                    tally.took(begin, await call(tally.text))

        await asyncio.gather(*(lane() for _ in range(tally.in_flight)))
        print(tally.told(), flush=True)
