"""Puts the blocking shells of the Python port behind JSON lines. See docs/driver.md of the suite."""

import functools
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
NOT_JSON = {"nan": math.nan, "infinity": math.inf, "set": {1}, "surrogate": "\ud800", "bytes": b"x"}
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
    bound = {"max_queue": ask["max_queue"]} if "max_queue" in ask else {}
    key = (ask["url"], ask["namespace"], ask.get("name", "client"), *bound.values())
    with opening:
        if key not in clients:
            clients[key] = Client(ask["url"], namespace=ask["namespace"], name=key[2], **bound)
        return clients[key]


def seconds(**ms):
    return {name: value / 1000 for name, value in ms.items() if value is not None}


def params_of(ask):
    return [NOT_JSON[ask["value"]]] if "value" in ask else json.loads(ask.get("params", "null"))


def do_call(ask):
    options = {"idempotent": ask.get("idempotent", False), **seconds(timeout=ask.get("timeout_ms"))}
    name = "retry" if ask.get("retry") else "call"
    return outcome_of(lambda: getattr(client_of(ask), name)(ask["service"], ask["method"], params_of(ask), **options))


def do_wait(ask):
    timeout = seconds(timeout=ask.get("timeout_ms"))
    return outcome_of(lambda: client_of(ask).wait_for_service(ask["service"], **timeout))


def do_many(ask):
    calls = [(call["method"], json.loads(call["params"])) for call in ask["calls"]]
    timeout = seconds(timeout=ask.get("timeout_ms"))
    return outcome_of(
        lambda: client_of(ask).many(ask["service"], calls, **timeout),
        lambda ends: {"outcomes": [told(end) for end in ends]},
    )


def do_notify(ask):
    options = seconds(expires=ask.get("expires_ms"), timeout=ask.get("timeout_ms"))
    options["idempotent"] = ask.get("idempotent", False)
    return outcome_of(
        lambda: client_of(ask).notify(ask["service"], ask["method"], params_of(ask), **options),
        lambda _: {"outcome": "sent"},
    )


def do_close(ask):
    for key in [key for key in clients if key[:2] == (ask["url"], ask["namespace"])]:
        clients.pop(key).close()
    return {}


# ---------------------------------------------------------------------------------------------------- server


class Own(ApplicationError):
    code = 1001


def throw(error):
    raise error


def sleep_ms(ms):
    time.sleep(ms / 1000)
    return ms


def spin_ms(ms):
    ends = time.monotonic() + ms / 1000
    while time.monotonic() < ends:
        pass
    return ms


def about():
    now, left = context(), context().time_left()
    known = {name: getattr(now, name) for name in ("caller", "traceparent", "attempt", "worker")}
    return known | {"left_ms": None if left is None else left * 1000}


METHODS = {
    "echo": lambda value: value,
    "add": lambda a, b: a + b,
    "fail": lambda code=1001, message="failed", data=None: throw(ApplicationError(message, code=code, data=data)),
    "fail_plain": lambda: throw(Own("plain")),
    "boom": lambda text="boom": throw(RuntimeError(text)),
    "sleep_ms": sleep_ms,
    "spin_ms": spin_ms,
    "blob": lambda size: "x" * size,
    "note": lambda *_: None,
    "crash": lambda: os._exit(3),
    "unwritable": lambda value: NOT_JSON[value],
    "about": about,
}


def do_serve(ask):
    place, counts = {"namespace": ask["namespace"], "service": ask["service"]}, {}

    def announced(name, method):
        @functools.wraps(method)  # it takes the same parameters
        def run(*args, **named):
            counts[name] = counts.get(name, 0) + 1
            say({"event": "invoked", **place, "method": name})
            return method(*args, **named)

        return run

    def job(key, ms=0, size=0, fail=False):
        say({"event": "invoked", **place, "method": "job", "key": key})
        time.sleep(ms / 1000)
        say({"event": "finished", **place, "method": "job", "key": key})
        return throw(ApplicationError("failed", code=1001)) if fail else "x" * size

    def nested(service, method, params, timeout_ms=None):
        return client_of(ask).call(service, method, params, **seconds(timeout=timeout_ms))

    options = {"namespace": ask["namespace"], "name": "driver", "threads": ask.get("concurrency", 4)}
    server = Server(ask["service"], ask["url"], **options, **seconds(handler_timeout=ask.get("handler_timeout_ms")))
    for name, method in {**METHODS, "nested": nested}.items():
        server.register(name, announced(name, method))
    server.register("job", job)
    server.register("count", lambda method: counts.get(method, 0))
    server.start()
    server.wait_ready()
    servers[tuple(place.values())] = server
    return {"worker": server.worker}


def do_stop(ask):
    servers.pop((ask["namespace"], ask["service"])).stop()
    return {}


# ---------------------------------------------------------------------------------------------------- both

COMMANDS = {
    "client": {"call": do_call, "many": do_many, "notify": do_notify, "wait": do_wait, "close": do_close},
    "server": {"serve": do_serve, "stop": do_stop, "close": do_close},
}[sys.argv[-1]]
HELLO = {"name": "sabir", "version": sabir.__version__, "language": "Python", "spec": ["1"], "concurrent": True}
HELLO["features"] = ["many", "nested", "context", "untyped", "retry", "bound", "wait", "handler_timeout", "spin"]


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
