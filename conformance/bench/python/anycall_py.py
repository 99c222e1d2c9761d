"""AnyCall over Redis with anycall-py."""
# Without postponed annotations: AnyCall compares those of a handler with the classes themselves.

import threading
import time
from datetime import timedelta
from typing import Any

from anycall import AnyCall, AnycallContext, supply

from bench import PLACE, ROLE, TIMEOUT, orders, ready, until_the_end

METHOD = f"{PLACE['service']}:echo"
REDIS = f"{PLACE['redis']}?max_connections=1024"
"""redis-py's own limit, 100 connections, would be too low: each call in flight holds one."""


class Service:
    @supply(METHOD, max_concurrency=PLACE["concurrency"])
    def echo(self, _context: AnycallContext, request: dict[str, Any]) -> dict[str, Any]:
        if PLACE["wait_ms"]:
            time.sleep(PLACE["wait_ms"] / 1e3)
        return {"result": request["params"][0]}


def worker() -> None:
    until_the_end()
    AnyCall.server(REDIS).register(Service()).start()
    ready()
    threading.Event().wait()


def client() -> None:
    client = AnyCall.client(REDIS, timeout=timedelta(seconds=TIMEOUT))
    orders(lambda text: client.raw_call(METHOD, {"params": [text]})["result"])


if __name__ == "__main__":
    {"worker": worker, "client": client}[ROLE]()
