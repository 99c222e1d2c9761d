"""An example worker: serves `calc` (or $SABIR_SERVICE) from the Redis at $REDIS_URL until SIGTERM or Ctrl-C."""

import os
import threading
import time

from sabir import ApplicationError, Server, context

server = Server(
    os.environ.get("SABIR_SERVICE", "calc"),
    os.environ.get("REDIS_URL"),
    namespace=os.environ.get("SABIR_NAMESPACE", "sabir"),
)
noted: list[str] = []


class DivisionByZero(ApplicationError):
    code = 1001


@server.method
def add(a, b):
    return a + b


@server.method
def echo(value):
    return value


@server.method
def divide(a, b):
    if b == 0:
        raise DivisionByZero("division by zero", data={"a": a})
    return a / b


@server.method
def note(text):
    noted.append(text)


@server.method
def notes():
    return noted


@server.method
def whoami():
    return {"language": "python", "worker": context().worker}


@server.method
def boom():
    raise RuntimeError("boom")


@server.method
def sleep_ms(ms):
    time.sleep(ms / 1000)
    return ms


def ready():
    if server.wait_ready():
        print("ready", server.service, server.worker, flush=True)


if __name__ == "__main__":
    threading.Thread(target=ready, daemon=True).start()
    server.run()
