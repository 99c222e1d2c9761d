"""Rounds in turns, and what each cost: time, and the CPU of the client, the worker and Redis."""

from __future__ import annotations

import asyncio
import importlib.util
import secrets
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from ..resp import Connection
from ..server import Redis, free_port
from .contestant import FOLDER, BenchError, Contestant, Pair, Process
from .scenarios import Entry, Goal, Scenario

WARM_UP: Final = 0.7
"""Seconds of the round of each entry that does not count."""
Tell = Callable[[str], None]


@dataclass(slots=True)
class Round:
    """What one round of one entry was like."""

    calls: int
    seconds: float
    p50_us: float
    p99_us: float
    redis_us: float
    """CPU of Redis for a call, µs."""
    client_us: float
    worker_us: float

    @property
    def seconds_per_call(self) -> float:
        return self.seconds / self.calls

    @property
    def cpu_us(self) -> float:
        return self.redis_us + self.client_us + self.worker_us


@dataclass(slots=True)
class Measured:
    """A scenario's rounds by entry, and those who could not take part."""

    scenario: Scenario
    rounds: dict[str, list[Round]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def median(self, entry: str, figure: str) -> float:
        return float(statistics.median(getattr(one, figure) for one in self.rounds[entry]))


class Bench:
    """A Redis, perhaps a NATS server, and the contestants. ``tell``: is told what is being done."""

    def __init__(
        self, redis: Redis, connection: Connection, nats: str | None, known: dict[str, Contestant], tell: Tell
    ) -> None:
        self.redis, self.nats, self.known, self.tell = redis, nats, known, tell
        self._connection = connection

    async def measure(self, scenario: Scenario, rounds: int, seconds: float) -> Measured:
        """So many rounds of each entry, of so many seconds, in turns."""
        measured = Measured(scenario)
        pairs: dict[str, Pair] = {}
        try:
            for entry in scenario.entries:
                self.tell(f"{scenario.title}: {entry.name} starts")
                try:
                    pairs[entry.name] = await self.pair(entry)
                    await self.round(pairs[entry.name], entry, WARM_UP)
                except BenchError as error:
                    await self._leave(measured, pairs, entry, error)
            for number in range(rounds):
                for entry in scenario.entries if number % 2 else reversed(scenario.entries):
                    if entry.name in pairs:
                        self.tell(f"{scenario.title}: round {number + 1} of {rounds}, {entry.name}")
                        try:
                            done = await self.round(pairs[entry.name], entry, seconds)
                        except BenchError as error:
                            await self._leave(measured, pairs, entry, error)
                        else:
                            measured.rounds.setdefault(entry.name, []).append(done)
        finally:
            await asyncio.gather(*(pair.end() for pair in pairs.values()))
        return measured

    async def _leave(self, measured: Measured, pairs: dict[str, Pair], entry: Entry, error: BenchError) -> None:
        measured.absent[entry.name] = str(error)
        measured.rounds.pop(entry.name, None)
        if pair := pairs.pop(entry.name, None):
            await pair.end()

    def absence(self, contestant: Contestant) -> str:
        """Why a contestant can't take part; empty: it can."""
        if contestant.needs == "nats" and self.nats is None:
            return "nats-server is not installed"
        if contestant.needs and contestant.language == "python" and importlib.util.find_spec(contestant.needs) is None:
            return f"the Python package {contestant.needs} is not installed"
        if (
            contestant.needs
            and contestant.language == "node"
            and not (FOLDER / "node/node_modules" / contestant.needs).exists()
        ):
            return f"the npm package {contestant.needs} is not installed"
        return ""

    async def pair(self, entry: Entry) -> Pair:
        """Start an entry's workers and its client. Raises BenchError."""
        contestant = self.known[entry.contestant]
        if absence := self.absence(contestant):
            raise BenchError(absence)
        place = {**self.place(), **entry.place}
        workers: list[Process] = []
        try:
            for _ in range(entry.workers):
                workers.append(await Process.start(contestant, "worker", place))
            client = await Process.start(self.known[entry.client or entry.contestant], "client", place)
        except BaseException:
            await asyncio.gather(*(worker.end() for worker in workers))
            raise
        return Pair(client, workers)

    def place(self) -> dict[str, Any]:
        """What a process is told, with a service of its own."""
        service = f"b{secrets.token_hex(4)}"
        where = {"redis": self.redis.url, "nats": self.nats, "port": free_port(), "service": service}
        return {**where, "wait_ms": 0, "concurrency": 64}

    async def round(self, pair: Pair, entry: Entry, seconds: float) -> Round:
        """One round of so many seconds. Raises BenchError."""
        before = await self.redis_cpu(), pair.client.cpu(), sum(worker.cpu() for worker in pair.workers)
        said = await pair.client.ask({**entry.order, "seconds": seconds}, seconds)
        after = await self.redis_cpu(), pair.client.cpu(), sum(worker.cpu() for worker in pair.workers)
        redis, client, worker = ((late - early) * 1e6 / said["calls"] for early, late in zip(before, after, strict=True))
        return Round(said["calls"], said["seconds"], said["p50_us"], said["p99_us"], redis, client, worker)

    async def redis_cpu(self) -> float:
        """Seconds of computing of Redis so far."""
        info = await self.run("INFO", "cpu")
        fields = dict(line.split(":", 1) for line in info.decode().split() if ":" in line)
        return float(fields["used_cpu_sys"]) + float(fields["used_cpu_user"])

    async def run(self, *arguments: Any) -> Any:
        return await self._connection.run(*arguments)


@dataclass(slots=True)
class Outcome:
    """A goal, and what was measured: the median of the rounds' ratios."""

    what: str
    bound: float
    at_least: bool
    value: float | None
    """None: it was not measured."""
    unit: str = "×"
    why: str = ""
    best: float | None = None
    """Of the round that came nearest to the goal; None: there were no rounds."""

    @property
    def state(self) -> str:
        if self.value is None:
            return "not run"
        return "met" if (self.value >= self.bound if self.at_least else self.value <= self.bound) else "missed"


def judge(goal: Goal, measured: dict[str, Measured]) -> Outcome:
    """What came of a goal."""
    outcome = Outcome(goal.what, goal.bound, goal.at_least, None)
    of = measured.get(goal.scenario)
    if of is None:
        outcome.why = "its scenario was not run"
        return outcome
    for name in (goal.entry, goal.to):
        if name not in of.rounds:
            outcome.why = of.absent.get(name, f"{name} was not run")
            return outcome
    ratios = [
        getattr(mine, goal.figure) / getattr(theirs, goal.figure)
        for mine, theirs in zip(of.rounds[goal.entry], of.rounds[goal.to], strict=True)
    ]
    ratio, best = statistics.median(ratios), min(ratios)
    outcome.value, outcome.best = (1 / ratio, 1 / best) if goal.at_least else (ratio, best)
    return outcome
