"""Sabir, with the Python port's blocking client and worker."""

from __future__ import annotations

import contextlib
import threading
import time

import sabir

from bench import PLACE, ROLE, SLOW_MS, TIMEOUT, orders, ready, spread, until_the_end


def worker() -> None:
    spread()
    server = sabir.Server(PLACE["service"], PLACE["redis"], threads=min(PLACE["concurrency"], 8))

    @server.method
    def echo(text: str) -> str:
        if PLACE["wait_ms"]:
            time.sleep(PLACE["wait_ms"] / 1e3)
        return text

    @server.method
    def slow(text: str) -> str:
        time.sleep(SLOW_MS / 1e3)
        return text

    until_the_end()
    server.start()
    server.wait_ready()
    ready()
    threading.Event().wait()


def client() -> None:
    with sabir.Client(PLACE["redis"], timeout=TIMEOUT) as client:

        def late() -> None:
            with contextlib.suppress(sabir.CallTimeout, sabir.DeadlineExceeded):
                client.call(PLACE["service"], "slow", ["x"], timeout=SLOW_MS / 2e3)

        orders(lambda text: client.call(PLACE["service"], "echo", [text]), late)


if __name__ == "__main__":
    {"worker": worker, "client": client}[ROLE]()
