"""What is measured: who makes which calls, side by side, and what is asked of the figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

LARGE: Final = 200 << 10
"""Bytes of a large payload."""
SABIR: Final = ("sabir-python", "sabir-asyncio", "sabir-ruby", "sabir-node")
FLOORS: Final = ("floor-python", "floor-ruby", "floor-node")


@dataclass(frozen=True, slots=True)
class Entry:
    """A contestant in a scenario. ``label``: its column or line."""

    contestant: str
    order: dict[str, Any]
    label: str = ""
    place: dict[str, Any] = field(default_factory=dict)
    """What its processes are told beyond the usual."""
    workers: int = 1
    client: str = ""
    """The contestant whose client calls; empty: its own."""

    @property
    def name(self) -> str:
        return self.label or self.contestant


@dataclass(frozen=True, slots=True)
class Scenario:
    """Entries that are measured in turns."""

    id: str
    title: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Goal:
    """A ratio of two entries' figures, taken round by round, and its bound."""

    what: str
    scenario: str
    entry: str
    to: str
    figure: str
    """A figure of a round: seconds_per_call, p50_us, redis_us, cpu_us."""
    bound: float
    at_least: bool = False
    """The ratio is how many times faster the entry is, and must reach the bound."""


def _each(names: tuple[str, ...], **order: Any) -> tuple[Entry, ...]:
    return tuple(Entry(name, order) for name in names)


ONE: Final = (
    *("floor-python", "sabir-python", "sabir-asyncio", "nats-py", "grpc-aio", "http-json"),
    *("anycall-py", "faststream", "celery", "floor-node", "sabir-node", "nats-js", "moleculer", "floor-ruby", "sabir-ruby"),
)
MANY: Final = (
    *("floor-python", "sabir-asyncio", "sabir-python", "nats-py", "grpc-aio", "http-json", "anycall-py"),
    *("floor-node", "sabir-node", "nats-js", "moleculer"),
)
IDLE: Final = 200
_SCALED: Final = {"in_flight": 64, "bytes": 100}

SCENARIOS: Final = (
    Scenario("one", "one call after another, 100 bytes", _each(ONE, in_flight=1, bytes=100)),
    Scenario("64", "64 calls in flight, 100 bytes", _each(MANY, in_flight=64, bytes=100)),
    Scenario(
        "256",
        "256 calls in flight, 100 bytes",
        _each(("sabir-asyncio", "nats-py", "sabir-node", "nats-js"), in_flight=256, bytes=100),
    ),
    Scenario(
        "200-KiB", "one call after another, 200 KiB there and back", _each((*FLOORS, *SABIR), in_flight=1, bytes=LARGE)
    ),
    Scenario(
        "idle",
        f"one call after another, {IDLE} more workers wait",
        tuple(
            Entry(name, {"in_flight": 1, "bytes": 100}, place={"copies": IDLE}) for name in ("floor-python", "sabir-python")
        ),
    ),
    Scenario(
        "time-outs",
        "64 calls in flight, 1 % of them time out",
        tuple(
            Entry(name, {"in_flight": 64, "bytes": 100, "time_outs": every}, label=f"{name}{', 1 %' if every else ''}")
            for name in ("sabir-asyncio", "sabir-node")
            for every in (0, 100)
        ),
    ),
    Scenario(
        "workers",
        "64 calls in flight, of which each waits 2 ms in its worker, one at a time",
        tuple(
            Entry(name, _SCALED, f"{name}, {n}", {"wait_ms": 2, "concurrency": 1}, n, "sabir-asyncio")
            for name in SABIR
            for n in (1, 4)
        ),
    ),
)

GOALS: Final = (
    Goal("Python, one call after another", "one", "sabir-python", "floor-python", "p50_us", 1.3),
    Goal("Node, one call after another", "one", "sabir-node", "floor-node", "p50_us", 1.15),
    Goal("Ruby, one call after another", "one", "sabir-ruby", "floor-ruby", "p50_us", 1.3),
    Goal(
        "Python asyncio, 64 in flight, to nats-py", "64", "sabir-asyncio", "nats-py", "seconds_per_call", 2.0, at_least=True
    ),
    Goal(
        "Python asyncio, 256 in flight, to nats-py",
        "256",
        "sabir-asyncio",
        "nats-py",
        "seconds_per_call",
        3.0,
        at_least=True,
    ),
    Goal("Node, 64 in flight, to nats.js", "64", "sabir-node", "nats-js", "seconds_per_call", 1.5, at_least=True),
    Goal("Node, 64 in flight, to Moleculer", "64", "sabir-node", "moleculer", "seconds_per_call", 1.8, at_least=True),
    Goal("Redis's CPU, 64 in flight, asyncio", "64", "sabir-asyncio", "floor-python", "redis_us", 1.5),
    Goal("Redis's CPU, 64 in flight, Node", "64", "sabir-node", "floor-node", "redis_us", 1.5),
    Goal("200 KiB, Python", "200-KiB", "sabir-python", "floor-python", "p50_us", 1.3),
    Goal("200 KiB, Node", "200-KiB", "sabir-node", "floor-node", "p50_us", 1.3),
    Goal("200 KiB, Ruby", "200-KiB", "sabir-ruby", "floor-ruby", "p50_us", 1.3),
    Goal(f"{IDLE} workers wait, time", "idle", "sabir-python", "floor-python", "p50_us", 1.2),
    Goal(f"{IDLE} workers wait, Redis's CPU", "idle", "sabir-python", "floor-python", "redis_us", 1.2),
    Goal("1 % time out, asyncio, all CPU", "time-outs", "sabir-asyncio, 1 %", "sabir-asyncio", "cpu_us", 1.1),
    Goal("1 % time out, Node, all CPU", "time-outs", "sabir-node, 1 %", "sabir-node", "cpu_us", 1.1),
    *(
        Goal(f"1 → 4 workers, {name}", "workers", f"{name}, 4", f"{name}, 1", "seconds_per_call", 3.6, at_least=True)
        for name in SABIR
    ),
)
