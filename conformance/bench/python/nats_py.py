"""NATS request-reply with nats-py."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import nats
from nats.aio.msg import Msg

from bench import PLACE, ROLE, TIMEOUT, orders_asyncio, ready, until_the_end

SUBJECT = f"{PLACE['service']}.rpc"


async def worker() -> None:
    slots = asyncio.Semaphore(PLACE["concurrency"])
    waiting: set[asyncio.Task[None]] = set()

    async def echo(msg: Msg) -> None:
        await msg.respond(json.dumps({"result": json.loads(msg.data)["params"][0]}).encode())

    async def wait_and_echo(msg: Msg) -> None:
        async with slots:
            await asyncio.sleep(PLACE["wait_ms"] / 1e3)
        await echo(msg)

    async def echo_aside(msg: Msg) -> None:
        """A subscription calls back for one message after another: those that wait do it in tasks of their own."""
        task = asyncio.create_task(wait_and_echo(msg))
        waiting.add(task)
        task.add_done_callback(waiting.discard)

    until_the_end()
    connection = await nats.connect(PLACE["nats"])
    await connection.subscribe(SUBJECT, queue="workers", cb=echo_aside if PLACE["wait_ms"] else echo)
    await connection.flush()
    ready()
    await asyncio.Event().wait()


async def client() -> None:
    connection = await nats.connect(PLACE["nats"])

    async def call(text: str) -> Any:
        request = json.dumps({"method": "echo", "params": [text]}).encode()
        reply = await connection.request(SUBJECT, request, timeout=TIMEOUT)
        return json.loads(reply.data)["result"]

    await orders_asyncio(call)
    await connection.close()


if __name__ == "__main__":
    asyncio.run({"worker": worker, "client": client}[ROLE]())
