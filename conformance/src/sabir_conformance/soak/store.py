"""The Redis of a soak, and what the runner does to it by itself."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from ..resp import Connection
from ..server import OwnServer, keys_of
from .journal import CUT, FLUSH, OUTAGE, Journal


class Store:
    """A server of the soak's own, which is killed and started again with its data (``appendfsync always``).

    Made by open(). One connection, one command at a time; while the server is away, commands wait.
    """

    def __init__(self, server: OwnServer, namespace: str, services: tuple[str, ...]) -> None:
        self.namespace, self.services = namespace, services
        self.url = server.redis.url
        self._server = server
        self._connection: Connection | None = None
        self._lock = asyncio.Lock()
        self._busy: asyncio.Future[None] | None = None

    @classmethod
    async def open(cls, namespace: str, services: tuple[str, ...]) -> Store:
        """Start the server. Raises ServerError."""
        store = cls(await asyncio.to_thread(OwnServer), namespace, services)
        store._connection = await store._server.redis.connect()
        return store

    async def close(self) -> None:
        """End the server."""
        if self._connection is not None:
            await self._connection.close()
        await self._in_thread(self._server.terminate)

    async def run(self, *arguments: Any) -> Any:
        """A command. Raises RedisError for an error reply."""
        async with self._lock:
            assert self._connection is not None
            return await self._connection.run(*arguments)

    def key(self, service: str, role: str) -> str:
        """A key by its role (section 3 of the specification)."""
        return f"{self.namespace}:{{{service}}}:{role}"

    async def _in_thread(self, work: Callable[[], None]) -> None:
        """Start or end the server, which blocks; one after the other, also when this is cancelled in between."""
        if self._busy is not None:
            await asyncio.wait([self._busy])
        self._busy = asyncio.ensure_future(asyncio.to_thread(work))
        await asyncio.shield(self._busy)

    # ------------------------------------------------------------------------------------------------ chaos

    async def outage(self, journal: Journal, seconds: float) -> None:
        """Kill the server, and start it again so many seconds later."""
        async with self._lock:
            assert self._connection is not None
            await self._connection.close()
            event = journal.add(OUTAGE, f"Redis killed, for {seconds:.1f} s", lasts=True)
            await self._in_thread(self._server.terminate)
            await asyncio.sleep(seconds)
            await self._in_thread(self._server.start)
            self._connection = await self._server.redis.connect()
            event.until = asyncio.get_running_loop().time()

    async def cut(self, journal: Journal, share: float, chance: random.Random) -> None:
        """End a share of all connections but our own (CLIENT KILL)."""
        async with self._lock:
            assert self._connection is not None
            listed = (await self._connection.run("CLIENT", "LIST", "TYPE", "normal")).decode()
            own = await self._connection.run("CLIENT", "ID")
            ids = [line.split(" ", 1)[0].removeprefix("id=") for line in listed.splitlines()]
            chosen = [number for number in ids if int(number) != own and chance.random() < share]
            event = journal.add(CUT, f"CLIENT KILL of {len(chosen)} of {len(ids) - 1} connections", lasts=True)
            await self._connection.run_all([("CLIENT", "KILL", "ID", number) for number in chosen])
            event.until = asyncio.get_running_loop().time()

    async def flush_scripts(self, journal: Journal) -> None:
        """SCRIPT FLUSH."""
        await self.run("SCRIPT", "FLUSH")
        journal.add(FLUSH, "SCRIPT FLUSH")

    # ------------------------------------------------------------------------------------------------ looking

    async def take_dead(self) -> list[bytes]:
        """The dead letters of all services, which are removed: their list is bounded, the soak's count of them is not."""
        found: list[bytes] = []
        async with self._lock:
            assert self._connection is not None
            for service in self.services:
                name = self.key(service, "dead")
                answers = await self._connection.run_all([("MULTI",), ("LRANGE", name, 0, -1), ("DEL", name), ("EXEC",)])
                found += answers[-1][0]
        return found

    async def unfinished(self, living: set[str]) -> list[str]:
        """What is not quiet yet: requests that wait or are in a hand, leases of workers that are not among the living."""
        found = []
        for service in self.services:
            waiting = await self.run("LLEN", self.key(service, "requests"))
            if waiting:
                found.append(f"{waiting} requests wait for {service}")
            members = {member.decode() for member in await self.run("ZRANGE", self.key(service, "leases"), 0, -1)}
            if members - living:
                found.append(f"leases of workers that are gone: {', '.join(sorted(members - living))}")
        async with self._lock:
            assert self._connection is not None
            keys = await keys_of(self._connection, self.namespace)
        hands = [name.decode() for name in keys if b":active:" in name]
        return found + ([f"hands that are not empty: {', '.join(hands)}"] if hands else [])

    async def lasting(self) -> list[str]:
        """The keys that would stay for ever, but for dead letters (of which there are none after take_dead())."""
        async with self._lock:
            assert self._connection is not None
            keys = await keys_of(self._connection, self.namespace)
            expiries = await self._connection.run_all([("PTTL", name) for name in keys])
        return [name.decode() for name, expiry in zip(keys, expiries, strict=True) if expiry == -1]

    async def steal(self, service: str) -> bool:
        """Take what waits first out of a queue, for good: a loss. Returns whether there was anything."""
        return await self.run("LPOP", self.key(service, "requests")) is not None
