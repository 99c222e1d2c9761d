"""gRPC with grpc.aio: a unary call whose messages are JSON."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc.aio

from bench import PLACE, ROLE, TIMEOUT, orders_asyncio, ready, until_the_end

ADDRESS = f"127.0.0.1:{PLACE['port']}"


def to_bytes(message: Any) -> bytes:
    return json.dumps(message).encode()


async def worker() -> None:
    slots = asyncio.Semaphore(PLACE["concurrency"])

    async def echo(request: dict[str, Any], _context: grpc.aio.ServicerContext) -> dict[str, Any]:
        if PLACE["wait_ms"]:
            async with slots:
                await asyncio.sleep(PLACE["wait_ms"] / 1e3)
        return {"result": request["params"][0]}

    until_the_end()
    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(echo, request_deserializer=json.loads, response_serializer=to_bytes)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(PLACE["service"], {"echo": method}),))
    server.add_insecure_port(ADDRESS)
    await server.start()
    ready()
    await server.wait_for_termination()


async def client() -> None:
    async with grpc.aio.insecure_channel(ADDRESS) as channel:
        echo = channel.unary_unary(
            f"/{PLACE['service']}/echo", request_serializer=to_bytes, response_deserializer=json.loads
        )

        async def call(text: str) -> Any:
            return (await echo({"method": "echo", "params": [text]}, timeout=TIMEOUT))["result"]

        await orders_asyncio(call)


if __name__ == "__main__":
    asyncio.run({"worker": worker, "client": client}[ROLE]())
