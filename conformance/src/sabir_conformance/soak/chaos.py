"""What is done to the workers and to Redis: drawn from a seed, at uneven intervals."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .fleet import Fleet, Worker
from .journal import Journal
from .store import Store

LEASE: Final = 10.0


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of trouble."""

    do: Callable[[], None]
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
        tasks: asyncio.TaskGroup,
        chance: random.Random,
        seconds: float,
        *,
        redis: bool,
    ) -> None:
        self._fleet, self._store, self._journal, self._tasks, self._chance = fleet, store, journal, tasks, chance
        self._service, self._lonely = store.services
        self._is_long = seconds >= 60
        # The last kills come early enough that the leases have ended, and all is recovered, soon after the last request;
        # breaks earlier still: who lost its push has no answer before its time-out. Short soaks have everything sooner.
        late = max(0.6 * seconds, seconds - LEASE)
        kinds = [
            Kind(self._kill, min(4.5, seconds / 8), late),
            Kind(self._pause, min(12.0, seconds / 5), late),
            Kind(self._stop, min(10.0, seconds / 6), late),
            Kind(self._bereave, 26.0, late) if self._is_long else Kind(self._bereave, seconds / 4, 0.3 * seconds),
        ]
        if redis:
            early = max(0.4 * seconds, seconds - 3 * LEASE)
            kinds += [
                Kind(self._cut, min(15.0, seconds / 5), early),
                Kind(self._outage, min(45.0, seconds / 4), early),
                Kind(self._flush, min(20.0, seconds / 4), early),
            ]
        self._kinds = kinds

    async def run(self) -> None:
        """Make trouble, until there is to be none any more."""
        begin = asyncio.get_running_loop().time()
        planned = [(kind.every * self._chance.uniform(0.1, 0.6), index) for index, kind in enumerate(self._kinds)]
        heapq.heapify(planned)
        while planned:
            at, index = heapq.heappop(planned)
            kind = self._kinds[index]
            if at > kind.until:
                continue
            await asyncio.sleep(begin + at - asyncio.get_running_loop().time())
            kind.do()
            heapq.heappush(planned, (at + kind.every * self._chance.uniform(0.7, 1.3), index))

    def _victim(self, *, spared: bool = False) -> Worker | None:
        """One of those that serve, as long as they are more than half of all."""
        serving = self._fleet.serving(self._service)
        paused = sum(worker.state == "paused" for worker in self._fleet.workers)
        chosen = [worker for worker in serving if spared or not worker.spared]
        return self._chance.choice(chosen) if chosen and len(serving) > paused + 1 else None

    def _kill(self) -> None:
        worker = self._victim()
        if worker is not None:
            self._fleet.kill(worker)
            self._fleet.replace(worker, self._chance.uniform(0, 1))

    def _pause(self) -> None:
        worker = self._victim(spared=True)
        if worker is not None:
            past_lease = self._chance.random() < 0.6
            self._fleet.pause(worker, self._chance.uniform(*((LEASE + 1, LEASE + 4) if past_lease else (0.5, 5))))

    def _stop(self) -> None:
        worker = self._victim()
        if worker is not None:
            self._tasks.create_task(self._stop_and_replace(worker, 0.0))

    async def _stop_and_replace(self, worker: Worker, after: float) -> None:
        await self._fleet.stop(worker)
        self._fleet.replace(worker, after)

    def _bereave(self) -> None:
        """The worker that serves alone: killed or stopped, and back at once, or after `alive` has ended."""
        for worker in self._fleet.serving(self._lonely):
            after = LEASE + 2 if self._is_long and self._chance.random() < 0.3 else self._chance.uniform(0.5, 2)
            if self._chance.random() < 0.5:
                self._tasks.create_task(self._stop_and_replace(worker, after))
            else:
                self._fleet.kill(worker)
                self._fleet.replace(worker, after)

    def _cut(self) -> None:
        share = self._chance.choice((0.2, 0.5, 1.0))
        self._tasks.create_task(self._store.cut(self._journal, share, self._chance))

    def _outage(self) -> None:
        is_long = self._is_long and self._chance.random() < 0.125
        seconds = self._chance.uniform(LEASE + 1, LEASE + 3) if is_long else self._chance.uniform(0, 1)
        self._tasks.create_task(self._store.outage(self._journal, seconds))

    def _flush(self) -> None:
        self._tasks.create_task(self._store.flush_scripts(self._journal))
