"""RPC over Redis with FastStream: a list of requests, and a channel of its own for each reply."""

from __future__ import annotations

import asyncio
from typing import Any

from faststream import FastStream
from faststream.redis import RedisBroker

from bench import PLACE, ROLE, TIMEOUT, orders_asyncio, ready, until_the_end

QUEUE = f"{PLACE['service']}:echo"
# redis-py's own limit, 100 connections, would be too low: each call in flight takes two.
broker = RedisBroker(PLACE["redis"], logger=None, max_connections=1024)


async def worker() -> None:
    app = FastStream(broker, logger=None)

    @broker.subscriber(list=QUEUE, max_workers=PLACE["concurrency"])
    async def echo(request: dict[str, Any]) -> dict[str, Any]:
        if PLACE["wait_ms"]:
            await asyncio.sleep(PLACE["wait_ms"] / 1e3)
        return {"result": request["params"][0]}

    app.after_startup(ready)
    until_the_end()
    await app.run()


async def client() -> None:
    async with broker:

        async def call(text: str) -> Any:
            reply = await broker.request({"method": "echo", "params": [text]}, list=QUEUE, timeout=TIMEOUT)
            return (await reply.decode())["result"]

        await orders_asyncio(call)


if __name__ == "__main__":
    asyncio.run({"worker": worker, "client": client}[ROLE]())
