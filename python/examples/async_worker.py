"""The example worker for asyncio: the same service, from handlers that may be coroutines."""

import asyncio
import os

from sabir import ApplicationError, context
from sabir.aio import Server

server = Server(
    os.environ.get("SABIR_SERVICE", "calc"),
    os.environ.get("REDIS_URL"),
    namespace=os.environ.get("SABIR_NAMESPACE", "sabir"),
)


@server.method
async def add(a, b):
    return a + b


@server.method
def divide(a, b):  # one that does not wait need not be a coroutine
    if b == 0:
        raise ApplicationError("division by zero", code=1001, data={"a": a})
    return a / b


@server.method
async def sleep_ms(ms):
    await asyncio.sleep(ms / 1000)
    return ms


@server.method
def whoami():
    return {"language": "python", "worker": context().worker}


async def main():
    running = asyncio.create_task(server.run())
    if await server.wait_ready():
        print("ready", server.service, server.worker, flush=True)
    await running


if __name__ == "__main__":
    asyncio.run(main())
