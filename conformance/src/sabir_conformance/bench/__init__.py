"""The benchmark: what a call costs, beside the least that it can cost and beside others, in one run.

Every figure that is compared comes from rounds that were taken in turns. The contestants' programs are in the repository's
conformance/bench; goals and scenarios are in scenarios.py.
"""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from ..reports.figures import installed
from ..server import Redis, software
from . import special
from .contestant import FOLDER, BenchError, contestants, nats
from .measure import Bench, Measured, Outcome, Tell, judge
from .scenarios import GOALS, SABIR, SCENARIOS, Scenario

__all__ = ["SCENARIOS", "SHORT", "SPECIAL", "BenchError", "Options", "Report", "run"]

SPECIAL: Final = ("imports", "long-queue", "memory")
"""What is measured beside the scenarios."""
_PACKAGES: Final = ("redis", "hiredis", "orjson", "nats-py", "grpcio", "anycall-py", "faststream", "celery", "aiohttp")


@dataclass(frozen=True, slots=True)
class Options:
    """How much is measured. ``seconds``: of a round."""

    rounds: int = 7
    seconds: float = 1.0
    waiting: int = 1_000_000
    calls: int = 1_000_000
    """Of the measurement of memory."""
    times: int = 3
    """How often the long queue is drained."""
    only: tuple[str, ...] = ()
    """Scenarios, or names of SPECIAL; empty: all."""
    who: tuple[str, ...] = ()
    """Contestants; empty: all."""

    def wants(self, name: str) -> bool:
        return not self.only or name in self.only


SHORT: Final = Options(rounds=3, seconds=0.3, waiting=100_000, calls=20_000, times=1)


@dataclass(slots=True)
class Report:
    """What came of a run."""

    header: dict[str, Any]
    measured: dict[str, Measured] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)

    @property
    def absent(self) -> dict[str, str]:
        """Who did not take part anywhere, and why."""
        there = {name for one in self.measured.values() for name in one.rounds}
        return {n: why for one in self.measured.values() for n, why in one.absent.items() if n not in there}

    def over(self, factor: float) -> list[str]:
        """The goals that even the best round misses by more than a factor, or that nothing was measured for."""
        lines = []
        for one in self.outcomes:
            value = one.value if one.best is None else one.best
            if value is None:
                lines.append(f"{one.what}: not measured: {one.why}")
            elif value * factor < one.bound if one.at_least else value > one.bound * factor:
                lines.append(f"{one.what}: {value:.2f} {one.unit} at best, its bound is {one.bound:g}, times {factor:g}")
        return lines

    def as_json(self) -> dict[str, Any]:
        return {
            "header": self.header,
            "outcomes": [{**asdict(outcome), "state": outcome.state} for outcome in self.outcomes],
            "scenarios": {
                name: {
                    "title": one.scenario.title,
                    "rounds": {entry: [asdict(r) for r in rounds] for entry, rounds in one.rounds.items()},
                    "absent": one.absent,
                }
                for name, one in self.measured.items()
            },
            "memory": self.memory,
        }


async def run(options: Options, redis: Redis, tell: Tell) -> Report:
    """Measure. ``tell``: is told what is being done. Raises BenchError where there is nothing to run."""
    known = contestants()
    connection = await redis.connect()
    try:
        with nats() as url:
            bench = Bench(redis, connection, url, known, tell)
            report = Report(await _header(bench, options))
            for scenario in SCENARIOS:
                if options.wants(scenario.id) and (chosen := _choose(scenario, options)).entries:
                    report.measured[scenario.id] = await bench.measure(chosen, options.rounds, options.seconds)
            report.outcomes = [judge(goal, report.measured) for goal in GOALS if options.wants(goal.scenario)]
            who = tuple(name for name in SABIR if not options.who or name in options.who)
            if options.wants("long-queue"):
                report.outcomes += await special.long_queue(bench, who, options.waiting, options.times)
            if options.wants("imports"):
                tell("imports")
                report.outcomes += await special.imports(2 * options.rounds + 1)
            if options.wants("memory"):
                outcomes, report.memory = await special.memory(bench, who, options.calls, in_flight=64)
                report.outcomes += outcomes
    finally:
        await connection.close()
    return report


def _choose(scenario: Scenario, options: Options) -> Scenario:
    entries = tuple(entry for entry in scenario.entries if not options.who or entry.contestant in options.who)
    return Scenario(scenario.id, scenario.title, entries)


async def _header(bench: Bench, options: Options) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "server": software(await bench.run("INFO", "server")),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "machine": f"{os.cpu_count()} × {_cpu()}, {platform.system()} {platform.release().split('-')[0]}",
        "load": f"{os.getloadavg()[0]:.2f}",
        "commit": _said("git", "-C", str(FOLDER), "rev-parse", "--short", "HEAD"),
        "python": platform.python_version(),
        "node": _said("node", "--version").removeprefix("v"),
        "ruby": _said("ruby", "-e", "print RUBY_VERSION"),
        "redis gem": _said("ruby", "-e", "require 'redis'; print Redis::VERSION"),
        "nats-server": _said("nats-server", "--version").rpartition(" ")[2].removeprefix("v"),
        **{name: found for name in _PACKAGES if (found := installed(name))},
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return ""
