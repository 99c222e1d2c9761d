"""What is done to the workers and to Redis: drawn from a seed, at uneven intervals."""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..driver import Manifest
from .fleet import Fleet, Worker
from .journal import Journal
from .store import Store

LEASE: Final = 10.0
AGAIN: Final = 0.4
"""Seconds until what could be done to nobody is tried again."""
BUSY: Final = 0.5
"""Seconds that the chaos waits for a worker that runs a handler."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of trouble."""

    do: Callable[[], bool]
    """Returns whether there was anybody to do it to."""
    every: float
    """Seconds between two of them, on average."""
    until: float
    """Seconds after the beginning from which there is none any more."""


class Chaos:
    """The loop. ``seconds``: how long the soak sends requests."""

    def __init__(
        self,
        fleet: Fleet,
        store: Store,
        journal: Journal,
        chance: random.Random,
        seconds: float,
        *,
        redis: bool,
    ) -> None:
        self._fleet, self._store, self._journal, self._chance = fleet, store, journal, chance
        self._tasks = asyncio.TaskGroup()
        self._service, self._lonely = store.services
        self._is_long = seconds >= 60
        # The last kills come early enough that the leases have ended, and all is recovered, soon after the last request;
        # breaks earlier still: who lost its push has no answer before its time-out. Short soaks have everything sooner.
        late = max(0.6 * seconds, seconds - LEASE)
        kinds = [
            Kind(self._kill, min(4.5, seconds / 12), late),
            Kind(self._pause, min(12.0, seconds / 5), late),
            Kind(self._stop, min(10.0, seconds / 6), late),
            Kind(self._bereave, 20.0, late) if self._is_long else Kind(self._bereave, seconds / 4, 0.3 * seconds),
        ]
        if redis:
            early = max(0.4 * seconds, seconds - 3 * LEASE)
            kinds += [
                Kind(self._cut, min(10.0, seconds / 5), early),
                Kind(self._outage, min(45.0, seconds / 4), early),
                Kind(self._flush, min(20.0, seconds / 4), early),
            ]
        self._kinds = kinds

    async def run(self) -> None:
        """Make trouble, until there is to be none any more, and all that was begun is done."""
        async with self._tasks:
            await self._make()

    async def _make(self) -> None:
        begin = asyncio.get_running_loop().time()
        planned = [(kind.every * self._chance.uniform(0.1, 0.6), index) for index, kind in enumerate(self._kinds)]
        heapq.heapify(planned)
        while planned:
            at, index = heapq.heappop(planned)
            kind = self._kinds[index]
            if at > kind.until:
                continue
            await asyncio.sleep(begin + at - asyncio.get_running_loop().time())
            pause = kind.every * self._chance.uniform(0.7, 1.3)
            heapq.heappush(planned, (at + (pause if kind.do() else AGAIN), index))

    def _victim(self, *, spared: bool = False) -> Worker | None:
        """One of those that serve, if it is not the only one."""
        serving = self._fleet.serving(self._service)
        chosen = [worker for worker in serving if spared or not worker.spared]
        return self._chance.choice(chosen) if chosen and len(serving) > 1 else None

    def _kill(self) -> bool:
        worker, after = self._victim(), self._chance.uniform(0, 1)
        if worker is not None:
            self._tasks.create_task(self._when_busy(worker, lambda: self._kill_and_replace(worker, after)))
        return worker is not None

    def _kill_and_replace(self, worker: Worker, after: float, manifest: Manifest | None = None) -> None:
        self._fleet.kill(worker)
        self._fleet.replace(worker, after, manifest)

    def _pause(self) -> bool:
        """At most a third is paused at a time."""
        worker, past_lease = self._victim(spared=True), self._chance.random() < 0.6
        seconds = self._chance.uniform(*((LEASE + 1, LEASE + 4) if past_lease else (0.5, 5)))
        paused = sum(other.state == "paused" for other in self._fleet.workers)
        if worker is None or 3 * paused >= len(self._fleet.workers):
            return False
        self._tasks.create_task(self._when_busy(worker, lambda: self._fleet.pause(worker, seconds)))
        return True

    async def _when_busy(self, worker: Worker, do: Callable[[], None]) -> None:
        """Do something to a worker: mostly at a moment when it runs a handler, if there is one soon."""
        ends = time.monotonic() + (BUSY if self._chance.random() < 0.75 else 0)
        while worker.process.running <= 0 and time.monotonic() < ends:
            await asyncio.sleep(0.001)
        if worker.state == "serving" and worker in self._fleet.workers:
            do()

    def _stop(self) -> bool:
        worker = self._victim()
        if worker is not None:
            self._tasks.create_task(self._stop_and_replace(worker, 0.0))
        return worker is not None

    async def _stop_and_replace(self, worker: Worker, after: float, manifest: Manifest | None = None) -> None:
        await self._fleet.stop(worker)
        self._fleet.replace(worker, after, manifest)

    def _bereave(self) -> bool:
        """The worker that serves alone: killed or stopped; there is another, of any language, soon, or after `alive` has ended."""
        alone = self._fleet.serving(self._lonely)
        after = LEASE + 2 if self._is_long and self._chance.random() < 0.3 else self._chance.uniform(0.5, 2)
        is_kill, manifest = self._chance.random() < 0.5, self._chance.choice(self._fleet.manifests)
        if alone and is_kill:
            self._kill_and_replace(alone[0], after, manifest)
        elif alone:
            self._tasks.create_task(self._stop_and_replace(alone[0], after, manifest))
        return bool(alone)

    def _cut(self) -> bool:
        share = self._chance.choice((0.2, 0.5, 1.0))
        self._tasks.create_task(self._store.cut(self._journal, share, self._chance))
        return True

    def _outage(self) -> bool:
        is_long = self._is_long and self._chance.random() < 0.125
        seconds = self._chance.uniform(LEASE + 1, LEASE + 3) if is_long else self._chance.uniform(0, 1)
        self._tasks.create_task(self._store.outage(self._journal, seconds))
        return True

    def _flush(self) -> bool:
        self._tasks.create_task(self._store.flush_scripts(self._journal))
        return True
