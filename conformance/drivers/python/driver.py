"""Puts the Python port behind JSON lines; `--aio` takes the asyncio shells. See docs/driver.md of the suite."""

import json
import math
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import sabir
from sabir import ApplicationError, Client, Server, context

write_lock = threading.Lock()
clients, servers = {}, {}
opening = threading.Lock()


def say(line):
    with write_lock:
        print(json.dumps(line), flush=True)


# ---------------------------------------------------------------------------------------------------- client


def told(value):
    return failure(value) if isinstance(value, sabir.SabirError) else {"outcome": "result", "value": json.dumps(value)}


def outcome_of(call, answer=told):
    try:
        return answer(call())
    except sabir.SabirError as error:
        return failure(error)
    except (ValueError, TypeError) as error:
        return {"outcome": "refused_locally", "message": str(error)}


def failure(error):
    kinds = {"CallTimeout": "timeout", "ServiceUnavailable": "unavailable", "Overloaded": "overloaded"}
    kinds |= {"ConnectionLost": "transport_error", "NotQueued": "transport_error"}
    name = type(error).__name__
    answer = {"outcome": kinds.get(name, "error"), "name": name, "code": error.code, "message": error.message}
    return answer | ({"data": json.dumps(error.data)} if error.has_data else {})


def client_of(ask):
    key = (ask["url"], ask["namespace"], ask.get("name", "client"))
    with opening:
        if key not in clients:
            clients[key] = Client(ask["url"], namespace=ask["namespace"], name=key[2])
        return clients[key]


def timeout_of(ask):
    return {"timeout": ask["timeout_ms"] / 1000} if "timeout_ms" in ask else {}


def value_of(ask):
    """What JSON does not have, by name."""
    return {"nan": math.nan, "infinity": math.inf, "set": {1}, "surrogate": "\ud800", "bytes": b"x"}[ask["value"]]


def params_of(ask):
    if "value" in ask:
        return [value_of(ask)]
    return json.loads(ask["params"]) if "params" in ask else None


def do_call(ask):
    options = {"idempotent": ask.get("idempotent", False), **timeout_of(ask)}
    return outcome_of(lambda: client_of(ask).call(ask["service"], ask["method"], params_of(ask), **options))


def do_many(ask):
    calls = [(call["method"], json.loads(call["params"])) for call in ask["calls"]]
    many = client_of(ask).many
    return outcome_of(
        lambda: many(ask["service"], calls, **timeout_of(ask)), lambda results: {"outcomes": [told(r) for r in results]}
    )


def do_notify(ask):
    options = timeout_of(ask) | ({"expires": ask["expires_ms"] / 1000} if "expires_ms" in ask else {})
    notify = client_of(ask).notify
    return outcome_of(
        lambda: notify(ask["service"], ask["method"], params_of(ask), **options), lambda _: {"outcome": "sent"}
    )


def do_close(ask):
    for key in [key for key in clients if key[:2] == (ask["url"], ask["namespace"])]:
        clients.pop(key).close()
    return {}


# ---------------------------------------------------------------------------------------------------- server


class Own(ApplicationError):
    code = 1001


def methods(ask):
    place = {"namespace": ask["namespace"], "service": ask["service"]}
    counts = {}

    def invoked(method):
        counts[method] = counts.get(method, 0) + 1
        say({"event": "invoked", **place, "method": method})

    def echo(value):
        invoked("echo")
        return value

    def add(a, b):
        invoked("add")
        return a + b

    def fail(code=1001, message="failed", data=None):
        invoked("fail")
        raise ApplicationError(message, code=code, data=data)

    def fail_plain():
        invoked("fail_plain")
        raise Own("plain")

    def boom(text="boom"):
        invoked("boom")
        raise RuntimeError(text)

    def sleep_ms(ms):
        invoked("sleep_ms")
        time.sleep(ms / 1000)
        return ms

    def blob(size):
        invoked("blob")
        return "x" * size

    def note(*args):
        invoked("note")

    def count(method):
        return counts.get(method, 0)

    def crash():
        invoked("crash")
        os._exit(3)

    def unwritable(value):
        invoked("unwritable")
        return value_of({"value": value})

    def nested(service, method, params, timeout_ms=None):
        invoked("nested")
        timeout = {} if timeout_ms is None else {"timeout": timeout_ms / 1000}
        return client_of(ask).call(service, method, params, **timeout)

    def about():
        invoked("about")
        now = context()
        left = now.time_left()
        seen = {name: getattr(now, name) for name in ("caller", "traceparent", "attempt", "worker")}
        return seen | {"left_ms": None if left is None else left * 1000}

    return [echo, add, fail, fail_plain, boom, sleep_ms, blob, note, count, crash, unwritable, nested, about]


def do_serve(ask):
    options = {"namespace": ask["namespace"], "name": "driver", "threads": ask.get("concurrency", 4)}
    server = Server(ask["service"], ask["url"], **options)
    for method in methods(ask):
        server.register(method.__name__, method)
    server.start()
    server.wait_ready()
    servers[ask["namespace"], ask["service"]] = server
    return {"worker": server.worker}


def do_stop(ask):
    servers.pop((ask["namespace"], ask["service"])).stop()
    return {}


# ---------------------------------------------------------------------------------------------------- both

COMMANDS = {
    "client": {"call": do_call, "many": do_many, "notify": do_notify, "close": do_close},
    "server": {"serve": do_serve, "stop": do_stop, "close": do_close},
}[sys.argv[-1]]
HELLO = {"name": "sabir", "version": sabir.__version__, "language": "Python", "spec": ["1"], "concurrent": True}
HELLO["features"] = ["many", "nested", "context", "untyped"]


def handle(ask):
    command = COMMANDS.get(ask["cmd"])
    try:
        answer = HELLO if ask["cmd"] == "hello" else command(ask) if command else {"error": "unsupported"}
    except Exception as error:  # noqa: BLE001 - the driver's own, not the port's
        answer = {"error": f"{type(error).__name__}: {error}"}
    say({"id": ask["id"], **answer})


if __name__ == "__main__":
    with ThreadPoolExecutor(64) as pool:
        for line in sys.stdin:
            pool.submit(handle, json.loads(line))
        os._exit(0)
