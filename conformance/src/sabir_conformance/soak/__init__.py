"""A soak: every port calls every port while workers and Redis are killed, and every single request is accounted for.

``load`` sends, ``fleet`` are the workers, ``chaos`` harms them (``journal``: when), ``store`` is their Redis, ``ledger`` knows
what became of each request, by what the handlers said (``process``), and ``report`` tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..driver import DriverError, Manifest
from .chaos import Chaos
from .fleet import Fleet
from .journal import Journal
from .ledger import Entry, Ledger
from .load import Load
from .memory import JUDGED_FROM, Growth, Memory
from .process import Process, Processes
from .store import Store

DRIVERS: Final = [
    Path(__file__).parents[3] / "drivers" / name / "driver.json" for name in ("python", "python-aio", "ruby", "node")
]
"""Those of the repository."""
SERVICES: Final = ("soak", "lonely")
UNSERVED: Final = "unserved"
"""The service of the planted loss, which has no worker that could take it first."""
"""The one that nearly all requests are for; and one with a single worker, which is sometimes away."""
SOAKING: Final = "soaking"
"""The phase in which requests are sent."""
QUIET: Final = 60.0
"""Seconds after the last answer until which nothing may wait, or lie in a hand, any more."""
CLOSING: Final = 10.0
"""Seconds that a client has to close."""
_TICK: Final = 0.5


@dataclass(frozen=True, slots=True)
class Options:
    """What to do."""

    clients: list[Manifest]
    workers: list[Manifest]
    seconds: float = 120.0
    size: int | None = None
    """Workers at a time, without the lonely one. None: two for each driver."""
    seed: int | None = None
    rate: float | None = None
    """Requests a second; None: as fast as they go."""
    lanes: int = 16
    """Pushes that a client has under way at a time."""
    redis_chaos: bool = True
    plant_loss: bool = False

    @property
    def patience_ms(self) -> int:
        """The time-out of calls that are to be answered, whoever dies: longer than two recoveries, or (short) than one."""
        return 45_000 if self.seconds >= JUDGED_FROM else 25_000


@dataclass(slots=True)
class Soak:
    """A soak and what came of it."""

    options: Options
    seed: int
    journal: Journal = field(default_factory=Journal)
    ledger: Ledger = field(default_factory=Ledger)
    memory: Memory = field(default_factory=Memory)
    clients: list[Process] = field(default_factory=list)
    phase: str = "starting"
    loaded: tuple[float, float] = (0.0, 0.0)
    """When requests were sent (monotonic, s)."""
    wall: float = 0.0
    """Seconds that all of it took."""
    planted: Entry | None = None
    """The request that the soak lost on purpose."""
    faults: list[tuple[Entry, str]] = field(default_factory=list)
    """Requests that are not accounted for."""
    troubles: list[str] = field(default_factory=list)
    """What else is wrong: something left in Redis, a process that ended by itself, memory."""
    grown: list[Growth] = field(default_factory=list)

    @property
    def green(self) -> bool:
        return not self.faults and not self.troubles


async def run(options: Options, tell: Callable[[Soak], None]) -> Soak:
    """Do it. ``tell`` is called twice a second. Raises DriverError, ServerError or OSError when it could not be done.

    SIGTERM ends it as Ctrl-C does: it is cancelled, and leaves no process behind.
    """
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    soak = Soak(options, seed)
    begin = soak.journal.begin
    store = await Store.open(f"soak{secrets.token_hex(4)}", SERVICES)
    processes = Processes(store.url, soak.ledger.hear)
    ticker = asyncio.create_task(_tick(soak, tell))
    try:
        try:
            async with asyncio.TaskGroup() as tasks:
                await _perform(soak, store, processes, tasks)
        except BaseExceptionGroup as group:
            raise _first(group) from None
        soak.phase = "judging"
        await _judge(soak, store, processes)
    finally:
        ticker.cancel()
        await processes.end()
        await store.close()
    soak.wall = time.monotonic() - begin
    return soak


async def _tick(soak: Soak, tell: Callable[[Soak], None]) -> None:
    while True:
        tell(soak)
        await asyncio.sleep(_TICK)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group of groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _perform(soak: Soak, store: Store, processes: Processes, tasks: asyncio.TaskGroup) -> None:
    """Start everything, send requests amid the chaos, wait until all is quiet, stop the workers."""
    options = soak.options
    fleet = Fleet(processes, options.workers, store.url, store.namespace, soak.journal, soak.troubles, tasks)
    await fleet.open(options.size or 2 * len(options.workers), *SERVICES)
    soak.clients = await asyncio.gather(*(processes.start(manifest, "client") for manifest in options.clients))
    for manifest in options.workers:
        fleet.warm(manifest)
    load = Load(soak.ledger, store, soak.clients, soak.seed, options.patience_ms, options.rate)
    chance = random.Random(soak.seed)  # noqa: S311 - it is to be drawn from a seed
    chaos = Chaos(fleet, store, soak.journal, chance, options.seconds, redis=options.redis_chaos)
    quiet = asyncio.Event()
    tasks.create_task(_watch(soak, fleet, quiet))
    collecting = tasks.create_task(_collect(soak, store, quiet))
    if options.plant_loss:
        soak.planted = await load.lose(UNSERVED)
    soak.phase, begin = SOAKING, time.monotonic()
    soak.loaded = begin, begin
    trouble = tasks.create_task(chaos.run())
    sending = tasks.create_task(load.run(options.lanes, options.seconds))
    await asyncio.sleep(options.seconds)
    soak.loaded = begin, time.monotonic()
    soak.phase = "settling"
    await trouble
    fleet.go_on()
    await sending
    await _settle(soak, store, fleet)
    quiet.set()
    await collecting
    await fleet.close()
    for client in soak.clients:
        try:
            await client.asked("close", CLOSING, url=store.url, namespace=store.namespace)
        except DriverError as error:
            soak.troubles.append(str(error))


async def _watch(soak: Soak, fleet: Fleet, quiet: asyncio.Event) -> None:
    """Look at the memory of those that live through, once a second."""
    while not await _passes(quiet):
        if soak.phase == SOAKING:
            soak.memory.sample([*soak.clients, *(worker.process for worker in fleet.workers if worker.spared)])


async def _collect(soak: Soak, store: Store, quiet: asyncio.Event) -> None:
    """Take the dead letters before their list is full, once a second. Never cancelled: what it has just taken would be lost."""
    while not await _passes(quiet):
        soak.ledger.bury(await store.take_dead())


async def _passes(quiet: asyncio.Event) -> bool:
    """Wait for a second, or until all is quiet. Returns whether it is."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            await quiet.wait()
    return quiet.is_set()


async def _settle(soak: Soak, store: Store, fleet: Fleet) -> None:
    """Wait until nothing waits, nothing is in a hand, and the dead are forgotten."""
    ends = time.monotonic() + QUIET
    while True:
        left = await store.unfinished({worker.id for worker in fleet.workers})
        if fleet.coming:
            left.append(f"{fleet.coming} workers that have not begun")
        if not left:
            return
        if time.monotonic() > ends:
            soak.troubles += [f"{QUIET:g} s after the last answer: {what}" for what in left]
            return
        await asyncio.sleep(0.2)


async def _judge(soak: Soak, store: Store, processes: Processes) -> None:
    """Read everything to its end, and account for all of it."""
    await processes.end()
    soak.ledger.bury(await store.take_dead())
    soak.faults = list(soak.ledger.judge(soak.journal, soak.options.patience_ms))
    soak.troubles += soak.ledger.strange
    soak.troubles += [f"left in Redis without an expiry: {key}" for key in await store.lasting()]
    soak.troubles += [f"{process.label} {process.role}: {process.fault}" for process in processes.all if process.fault]
    if soak.options.seconds >= JUDGED_FROM:
        soak.grown = soak.memory.growth(int(soak.options.seconds * 0.8))
        soak.troubles += [
            f"{growth.process.label} {growth.process.role}: memory grew from {growth.before / 2**20:.0f} to {growth.after / 2**20:.0f} MiB"
            for growth in soak.grown
            if growth.is_too_much
        ]


__all__ = ["Options", "Soak", "run"]
