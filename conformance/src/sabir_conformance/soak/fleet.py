"""The workers: started, killed, paused, stopped and replaced, with a process of each language kept warm."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..driver import DriverError, Manifest
from .journal import END, KILL, PAUSE, START, STOP, VACANT, Event, Journal, nobody_serves
from .process import Process, Processes

CONCURRENCY: Final = 4
SERVE: Final = 45.0
"""Seconds that a worker has to begin: Redis may be away."""
STOPPING: Final = 45.0
"""Seconds that a worker has to stop: the same, and its handlers run to their end."""
TRIES: Final = 5


@dataclass(slots=True, eq=False)
class Worker:
    """A worker that lives."""

    process: Process
    service: str
    id: str
    spared: bool
    """It is neither killed nor stopped: its memory is watched."""
    state: str = "serving"
    """serving, paused or stopping."""


class Fleet:
    """All workers of a soak. ``troubles``: what goes wrong is added; ``tasks``: where work in the background is done."""

    def __init__(
        self,
        processes: Processes,
        manifests: Sequence[Manifest],
        url: str,
        namespace: str,
        journal: Journal,
        troubles: list[str],
        tasks: asyncio.TaskGroup,
    ) -> None:
        self.manifests = manifests
        self.workers: list[Worker] = []
        self.coming = 0
        """Workers that are about to begin."""
        self._processes, self._url, self._namespace = processes, url, namespace
        self._journal, self._troubles, self._tasks = journal, troubles, tasks
        self._warm: dict[str, asyncio.Task[Process]] = {}
        self._pauses: dict[Worker, tuple[Event, asyncio.TimerHandle]] = {}
        self._vacant: dict[str, Event] = {}
        self._starting = asyncio.Semaphore(2)  # a start costs a language up to a second of computing

    async def open(self, workers: int, service: str, lonely: str) -> None:
        """Start so many workers of a service, the languages in turn, and one of another service.

        The first of each language is spared, if there are more of it.
        """
        chosen = list(itertools.islice(itertools.cycle(self.manifests), workers))
        spared = [manifest not in chosen[:at] and manifest in chosen[at + 1 :] for at, manifest in enumerate(chosen)]
        async with asyncio.TaskGroup() as group:
            for manifest, is_spared in zip(chosen, spared, strict=True):
                group.create_task(self.add(manifest, service, spared=is_spared))
            group.create_task(self.add(self.manifests[-1], lonely))

    async def add(self, manifest: Manifest, service: str, *, spared: bool = False) -> None:
        """A worker more, in a warm process if there is one. Raises DriverError when none begins to serve."""
        place = {"url": self._url, "namespace": self._namespace, "service": service}
        for left in reversed(range(TRIES)):
            warm = self._warm.pop(manifest.name, None)
            process = await (warm if warm is not None else self._start(manifest))
            try:
                answer = await process.asked("serve", SERVE, **place, concurrency=CONCURRENCY)
            except DriverError:  # Redis may have been away for longer than the port tries to begin
                process.kill()
                if not left:
                    raise
                await asyncio.sleep(0.5)
                continue
            self.workers.append(Worker(process, service, answer["worker"], spared))
            if service in self._vacant:
                self._vacant.pop(service).until = time.monotonic()
            self._journal.add(START, f"{service}: {process.label} serves as {answer['worker']}", process)
            return

    def warm(self, manifest: Manifest) -> None:
        """Keep a process ready, for the next worker of this language."""
        if manifest.name not in self._warm:
            self._warm[manifest.name] = self._tasks.create_task(self._start(manifest))

    async def _start(self, manifest: Manifest) -> Process:
        async with self._starting:
            return await self._processes.start(manifest, "server")

    # ------------------------------------------------------------------------------------------------ what is done to them

    def serving(self, service: str) -> list[Worker]:
        """The workers of a service to which nothing is being done."""
        return [worker for worker in self.workers if worker.service == service and worker.state == "serving"]

    def kill(self, worker: Worker) -> None:
        """SIGKILL."""
        self._journal.add(KILL, f"{worker.service}: kill -9 of {worker.process.label}", worker.process)
        self._leaves(worker)
        worker.process.kill()
        self.workers.remove(worker)

    def _leaves(self, worker: Worker) -> None:
        if not any(other.service == worker.service for other in self.workers if other is not worker):
            self._vacant[worker.service] = self._journal.add(VACANT, nobody_serves(worker.service), lasts=True)

    def pause(self, worker: Worker, seconds: float) -> None:
        """SIGSTOP, and SIGCONT so many seconds later."""
        text = f"{worker.service}: SIGSTOP of {worker.process.label}, for {seconds:.1f} s"
        event = self._journal.add(PAUSE, text, worker.process, lasts=True)
        worker.state = "paused"
        worker.process.signal(signal.SIGSTOP)
        self._pauses[worker] = event, asyncio.get_running_loop().call_later(seconds, self._go_on, worker)

    def _go_on(self, worker: Worker) -> None:
        event, timer = self._pauses.pop(worker)
        timer.cancel()
        worker.process.signal(signal.SIGCONT)
        event.until, worker.state = time.monotonic(), "serving"

    def go_on(self) -> None:
        """SIGCONT to all that are paused."""
        for worker in list(self._pauses):
            self._go_on(worker)

    async def stop(self, worker: Worker, kind: str = STOP) -> None:
        """Have it stop: it gives back what it has not started, finishes what it has, and says goodbye."""
        worker.state = "stopping"
        event = self._journal.add(kind, f"{worker.service}: {worker.process.label} stops", worker.process, lasts=True)
        self._leaves(worker)
        try:
            await worker.process.asked("stop", STOPPING, namespace=self._namespace, service=worker.service)
        except DriverError as error:
            self._troubles.append(str(error))
        event.until = time.monotonic()
        await worker.process.end()
        self.workers.remove(worker)

    def replace(self, worker: Worker, after: float = 0.0, manifest: Manifest | None = None) -> None:
        """Have another one take its place, so many seconds later. ``manifest``: its language; None: the same."""
        self.coming += 1
        self._tasks.create_task(self._replace(worker.service, after, manifest or worker.process.manifest))

    async def _replace(self, service: str, after: float, manifest: Manifest) -> None:
        try:
            await asyncio.sleep(after)
            await self.add(manifest, service)
        finally:
            self.coming -= 1
        self.warm(manifest)

    async def close(self) -> None:
        """Stop all workers, and end what was kept warm."""
        for task in self._warm.values():
            await (await task).end()
        self._warm.clear()
        await asyncio.gather(*(self.stop(worker, END) for worker in list(self.workers)))
