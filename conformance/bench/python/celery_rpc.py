"""Celery, with Redis as broker and result backend: a task, and the wait for its result."""

from __future__ import annotations

import time
from typing import Any

from celery import Celery
from celery.signals import worker_ready

from bench import PLACE, ROLE, TIMEOUT, orders, ready, until_the_end

app = Celery(PLACE["service"], broker=PLACE["redis"], backend=PLACE["redis"])
app.conf.update(
    task_default_queue=PLACE["service"],
    result_expires=TIMEOUT,  # not a day: the results of a run would fill Redis
    result_backend_thread_safe=True,  # one connection for results, not one for each thread
    worker_redirect_stdouts=False,
)


@app.task(name="echo")
def echo(text: str) -> str:
    if PLACE["wait_ms"]:
        time.sleep(PLACE["wait_ms"] / 1e3)
    return text


@worker_ready.connect
def on_ready(**_: Any) -> None:
    ready()


def worker() -> None:
    until_the_end()
    app.Worker(
        pool="threads",
        concurrency=PLACE["concurrency"],
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="ERROR",
        quiet=True,
    ).start()


def client() -> None:
    orders(lambda text: echo.delay(text).get(timeout=TIMEOUT))


if __name__ == "__main__":
    {"worker": worker, "client": client}[ROLE]()
