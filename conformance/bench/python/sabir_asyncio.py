"""Sabir, with the Python port's asyncio client and worker."""

from __future__ import annotations

import asyncio
import contextlib

import sabir.aio
from sabir import CallTimeout, DeadlineExceeded

from bench import PLACE, ROLE, SLOW_MS, TIMEOUT, orders_asyncio, ready, until_the_end


async def worker() -> None:
    server = sabir.aio.Server(PLACE["service"], PLACE["redis"], concurrency=PLACE["concurrency"])

    @server.method
    async def echo(text: str) -> str:
        if PLACE["wait_ms"]:
            await asyncio.sleep(PLACE["wait_ms"] / 1e3)
        return text

    @server.method
    async def slow(text: str) -> str:
        await asyncio.sleep(SLOW_MS / 1e3)
        return text

    until_the_end()
    async with server:
        ready()
        await asyncio.Event().wait()


async def client() -> None:
    async with sabir.aio.Client(PLACE["redis"], timeout=TIMEOUT) as client:

        async def late() -> None:
            with contextlib.suppress(CallTimeout, DeadlineExceeded):
                await client.call(PLACE["service"], "slow", ["x"], timeout=SLOW_MS / 2e3)

        await orders_asyncio(lambda text: client.call(PLACE["service"], "echo", [text]), late)


if __name__ == "__main__":
    asyncio.run({"worker": worker, "client": client}[ROLE]())
