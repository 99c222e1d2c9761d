"""Plain HTTP with JSON bodies: aiohttp's server and client."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from aiohttp import web

from bench import PLACE, ROLE, TIMEOUT, orders_asyncio, ready, until_the_end


async def worker() -> None:
    slots = asyncio.Semaphore(PLACE["concurrency"])

    async def echo(request: web.Request) -> web.Response:
        body = await request.json()
        if PLACE["wait_ms"]:
            async with slots:
                await asyncio.sleep(PLACE["wait_ms"] / 1e3)
        return web.json_response({"result": body["params"][0]})

    until_the_end()
    app = web.Application()
    app.router.add_post("/rpc", echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", PLACE["port"]).start()
    ready()
    await asyncio.Event().wait()


async def client() -> None:
    url = f"http://127.0.0.1:{PLACE['port']}/rpc"
    # By itself it would open 100 connections at most, and close those that were idle for 15 seconds, as between rounds.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=600)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=TIMEOUT)) as session:

        async def call(text: str) -> Any:
            async with session.post(url, json={"method": "echo", "params": [text]}) as reply:
                reply.raise_for_status()
                return (await reply.json())["result"]

        await orders_asyncio(call)


if __name__ == "__main__":
    asyncio.run({"worker": worker, "client": client}[ROLE]())
