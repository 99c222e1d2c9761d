"""What is asked for: a mixture of requests, drawn from a seed, by lanes that have one push under way each."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any, Final

from ..driver import DriverError
from .ledger import CALL, END, MARGIN, NOTIFY, Entry, Job, Ledger
from .process import Process
from .store import Store

SMALL: Final = 100
LARGE: Final = 200 << 10
"""Bytes of the smallest and of the largest results and parameters."""
METHOD: Final = "job"
_LONELY_PAUSE: Final = 0.05
_ERROR_PAUSE: Final = 0.02


class Load:
    """The lanes of all clients. ``rate``: requests a second in all, None: as fast as they go."""

    def __init__(
        self, ledger: Ledger, store: Store, clients: list[Process], seed: int, patience_ms: int, rate: float | None
    ) -> None:
        self._ledger, self._store, self._clients = ledger, store, clients
        self._seed, self._patience_ms, self._rate = seed, patience_ms, rate
        self._next = 0.0
        self._ends = 0.0

    async def run(self, lanes: int, seconds: float) -> None:
        """Send requests for so long, by so many lanes of each client, and wait for every answer."""
        self._next = time.monotonic()
        self._ends = self._next + seconds
        service, lonely = self._store.services
        async with asyncio.TaskGroup() as group:
            for client in self._clients:
                for lane in range(lanes):
                    group.create_task(self._lane(client, f"{self._seed}/{client.label}/{lane}", service))
                group.create_task(self._lane(client, f"{self._seed}/{client.label}/lonely", lonely))

    async def lose(self, service: str) -> Entry:
        """Plant a loss: send a notification to a service that has no worker, and take it out of its queue for good.

        Raises DriverError when it could not be sent.
        """
        client = self._clients[0]
        await self._send(client, service, [Job(NOTIFY, 0, SMALL, timeout_ms=self._patience_ms)])
        if not await self._store.steal(service):
            raise DriverError(f"{client.label}: expected a notification in the queue of {service}, got none")
        return self._ledger.entries[-1]

    async def _lane(self, client: Process, seed: str, service: str) -> None:
        chance = random.Random(seed)  # noqa: S311 - it is to be drawn from a seed
        features = frozenset(client.hello.get("features", ()))
        is_lonely = service == self._store.services[1]
        while time.monotonic() < self._ends:
            if not is_lonely and "many" in features and chance.random() < 0.08:
                jobs = [_call(chance, self._patience_ms, None) for _ in range(chance.randint(2, 24))]
            else:
                jobs = [draw(chance, self._patience_ms, features)]
            await self._turn(len(jobs))
            if not await self._send(client, service, jobs):
                return
            if is_lonely:
                await asyncio.sleep(_LONELY_PAUSE)

    async def _turn(self, requests: int) -> None:
        if self._rate is not None:
            now = time.monotonic()
            wait, self._next = self._next - now, max(self._next, now) + requests / self._rate
            if wait > 0:
                await asyncio.sleep(wait)

    async def _send(self, client: Process, service: str, jobs: list[Job]) -> bool:
        """Send what goes in one push, and wait for its end. Returns whether the client can be used any longer."""
        entries = [self._ledger.open(client, service, job, len(jobs)) for job in jobs]
        place = {
            "url": self._store.url,
            "namespace": self._store.namespace,
            "service": service,
            "name": "soak",
        }
        if len(entries) > 1:
            calls = [{"method": METHOD, "params": params(entry)} for entry in entries]
            future = client.ask("many", **place, calls=calls, timeout_ms=jobs[0].timeout_ms)
        else:
            future = client.ask(jobs[0].kind, **place, **_arguments(entries[0]))
        try:
            async with asyncio.timeout(jobs[0].timeout_ms / 1000 + END + MARGIN + MARGIN):
                answer = await future
        except TimeoutError:
            return True  # the ledger tells that there was none
        except DriverError as error:
            for entry in entries:
                entry.detail = str(error)
            return False
        self._close(entries, answer)
        if answer.get("outcome") not in ("result", "sent", None):
            await asyncio.sleep(_ERROR_PAUSE)
        return True

    def _close(self, entries: list[Entry], answer: dict[str, Any]) -> None:
        outcomes = answer.get("outcomes") or [answer] * len(entries)
        for entry, outcome in zip(entries, outcomes, strict=False):
            if "outcome" in outcome:
                self._ledger.close(entry, outcome)
            else:
                entry.detail = f"expected an outcome, got {json.dumps(outcome)[:200]}"


def params(entry: Entry) -> str:
    """The parameters of a job, as JSON text."""
    job = entry.job
    return json.dumps({"key": entry.key, "ms": job.ms, "size": job.size, "fail": job.fail})


def _arguments(entry: Entry) -> dict[str, Any]:
    job = entry.job
    arguments: dict[str, Any] = {"method": METHOD, "params": params(entry), "timeout_ms": job.timeout_ms}
    if job.idempotent:
        arguments["idempotent"] = True
    if job.retry:
        arguments["retry"] = True
    if job.expires_ms is not None:
        arguments["expires_ms"] = job.expires_ms
    if job.max_queue is not None:
        arguments["max_queue"] = job.max_queue
    return arguments


# ---------------------------------------------------------------------------------------------------- the mixture


def draw(chance: random.Random, patience_ms: int, features: frozenset[str]) -> Job:
    """One request: a call, or, of every five, a notification. ``features``: of the client's driver."""
    if chance.random() < 0.2:
        return _notification(chance, patience_ms)
    return _call(chance, patience_ms, features)


def _call(chance: random.Random, patience_ms: int, features: frozenset[str] | None) -> Job:
    """One call. ``features`` None: one of many, which have their time-out in common, and no options."""
    fail, is_alone, kind = chance.random() < 0.04, features is not None, chance.random()
    idempotent = is_alone and chance.random() < 0.4
    if is_alone and kind < 0.006:  # times out while it runs; or, where it had to wait, before
        timeout_ms = chance.randint(50, 400)
        return Job(CALL, timeout_ms + chance.randint(100, 500), _size(chance), idempotent=idempotent, timeout_ms=timeout_ms)
    if features is not None and kind < 0.015 and "bound" in features:
        return Job(CALL, 0, SMALL, idempotent=idempotent, timeout_ms=patience_ms, max_queue=chance.randint(1, 3))
    retry = features is not None and kind > 0.98 and "retry" in features
    filler = _log(chance, LARGE) if chance.random() < 0.03 else 0
    return Job(CALL, _ms(chance), _size(chance), filler, fail, idempotent, retry, patience_ms)


def _notification(chance: random.Random, patience_ms: int) -> Job:
    expires_ms = chance.randint(1, 300) if chance.random() < 0.08 else None
    filler = _log(chance, LARGE) if chance.random() < 0.02 else 0
    fail, idempotent = chance.random() < 0.04, chance.random() < 0.4
    ms = chance.randint(1, 40) if chance.random() < 0.5 else _ms(chance)
    return Job(NOTIFY, ms, 0, filler, fail, idempotent, False, patience_ms, expires_ms)


def _ms(chance: random.Random) -> int:
    """How long the handler takes: mostly not at all; rarely seconds."""
    kind = chance.random()
    if kind < 0.7:
        return 0
    if kind < 0.98:
        return chance.randint(1, 20)
    return chance.randint(100, 300) if kind < 0.998 else chance.randint(1000, 3000)


def _size(chance: random.Random) -> int:
    kind = chance.random()
    return SMALL if kind < 0.85 else _log(chance, 4096 if kind < 0.97 else LARGE)


def _log(chance: random.Random, most: int) -> int:
    """A size from SMALL to ``most``, each magnitude as likely as the others."""
    return int(SMALL * (most / SMALL) ** chance.random())
