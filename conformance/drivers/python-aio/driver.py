"""Puts the asyncio shells of the Python port behind JSON lines. See docs/driver.md of the suite."""

import asyncio
import functools
import inspect
import json
import math
import os
import sys
import time

import sabir
from sabir import ApplicationError, context
from sabir.aio import Client, Server

LINE = 8 << 20  # bytes of the longest command
KINDS = {"CallTimeout": "timeout", "ServiceUnavailable": "unavailable", "Overloaded": "overloaded"}
KINDS |= {"ConnectionLost": "transport_error", "NotQueued": "transport_error"}
NOT_JSON = {"nan": math.nan, "infinity": math.inf, "set": {1}, "surrogate": "\ud800", "bytes": b"x"}
clients, servers = {}, {}


def say(line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


# ---------------------------------------------------------------------------------------------------- client


def ending(end):
    return failure(end) if isinstance(end, sabir.SabirError) else {"outcome": "result", "value": json.dumps(end)}


async def outcome_of(work, show=ending):
    """Do something with a client, and say how it ended."""
    try:
        return show(await work())
    except sabir.SabirError as error:
        return failure(error)
    except (ValueError, TypeError) as error:
        return {"outcome": "refused_locally", "message": str(error)}


def failure(error):
    name = type(error).__name__
    answer = {"outcome": KINDS.get(name, "error"), "name": name, "code": error.code, "message": error.message}
    return answer | ({"data": json.dumps(error.data)} if error.has_data else {})


def client_of(ask):
    bound = {"max_queue": ask["max_queue"]} if "max_queue" in ask else {}
    key = (ask["url"], ask["namespace"], ask.get("name", "client"), *bound.values())
    if key not in clients:
        clients[key] = Client(ask["url"], namespace=ask["namespace"], name=key[2], **bound)
    return clients[key]


def seconds(**ms):
    return {name: value / 1000 for name, value in ms.items() if value is not None}


def params_of(ask):
    return [NOT_JSON[ask["value"]]] if "value" in ask else json.loads(ask.get("params", "null"))


async def do_call(ask):
    options = seconds(timeout=ask.get("timeout_ms")) | {"idempotent": ask.get("idempotent", False)}
    params, name = params_of(ask), "retry" if ask.get("retry") else "call"
    return await outcome_of(lambda: getattr(client_of(ask), name)(ask["service"], ask["method"], params, **options))


async def do_wait(ask):
    timeout = seconds(timeout=ask.get("timeout_ms"))
    return await outcome_of(lambda: client_of(ask).wait_for_service(ask["service"], **timeout))


async def do_many(ask):
    calls = [(call["method"], json.loads(call["params"])) for call in ask["calls"]]
    options = seconds(timeout=ask.get("timeout_ms"))
    return await outcome_of(
        lambda: client_of(ask).many(ask["service"], calls, **options),
        lambda ends: {"outcomes": [ending(end) for end in ends]},
    )


async def do_notify(ask):
    options = seconds(expires=ask.get("expires_ms"), timeout=ask.get("timeout_ms"))
    params, options["idempotent"] = params_of(ask), ask.get("idempotent", False)
    return await outcome_of(
        lambda: client_of(ask).notify(ask["service"], ask["method"], params, **options), lambda _: {"outcome": "sent"}
    )


async def do_close(ask):
    for key in [key for key in clients if key[:2] == (ask["url"], ask["namespace"])]:
        await clients.pop(key).close()
    return {}


# ---------------------------------------------------------------------------------------------------- server


class Own(ApplicationError):
    code = 1001


def throw(error):
    raise error


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
    "sleep_ms": lambda ms: asyncio.sleep(ms / 1000, ms),
    "spin_ms": spin_ms,
    "blob": lambda size: "x" * size,
    "note": lambda *_: None,
    "crash": lambda: os._exit(3),
    "unwritable": lambda value: NOT_JSON[value],
    "about": about,
}


async def do_serve(ask):
    place, counts = {"namespace": ask["namespace"], "service": ask["service"]}, {}

    def announced(name, method):
        @functools.wraps(method)  # it takes the same parameters
        async def run(*args, **named):
            counts[name] = counts.get(name, 0) + 1
            say({"event": "invoked", **place, "method": name})
            result = method(*args, **named)
            return await result if inspect.isawaitable(result) else result

        return run

    async def job(key, ms=0, size=0, fail=False):
        say({"event": "invoked", **place, "method": "job", "key": key})
        await asyncio.sleep(ms / 1000)
        say({"event": "finished", **place, "method": "job", "key": key})
        return throw(ApplicationError("failed", code=1001)) if fail else "x" * size

    def nested(service, method, params, timeout_ms=None):
        return client_of(ask).call(service, method, params, **seconds(timeout=timeout_ms))

    options = {"namespace": ask["namespace"], "name": "driver", "concurrency": ask.get("concurrency", 4)}
    options |= seconds(handler_timeout=ask.get("handler_timeout_ms"))
    server = servers[tuple(place.values())] = Server(ask["service"], ask["url"], **options)
    for name, method in {**METHODS, "nested": nested}.items():
        server.register(name, announced(name, method))
    server.register("job", job)
    server.register("count", lambda method: counts.get(method, 0))
    server.start()
    await server.wait_ready()
    return {"worker": server.worker}


async def do_stop(ask):
    await servers.pop((ask["namespace"], ask["service"])).stop()
    return {}


# ---------------------------------------------------------------------------------------------------- both

COMMANDS = {
    "client": {"call": do_call, "many": do_many, "notify": do_notify, "wait": do_wait, "close": do_close},
    "server": {"serve": do_serve, "stop": do_stop, "close": do_close},
}[sys.argv[-1]]
HELLO = {"name": "sabir.aio", "version": sabir.__version__, "language": "Python", "spec": ["1"], "concurrent": True}
HELLO["features"] = ["many", "nested", "context", "untyped", "retry", "bound", "wait", "handler_timeout"]


async def handle(ask):
    command = COMMANDS.get(ask["cmd"])
    try:
        answer = HELLO if ask["cmd"] == "hello" else await command(ask) if command else {"error": "unsupported"}
    except Exception as error:  # noqa: BLE001 - the driver's own, not the port's
        answer = {"error": f"{type(error).__name__}: {error}"}
    say({"id": ask["id"], **answer})


async def main():
    stdin, running = asyncio.StreamReader(limit=LINE), set()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    while line := await stdin.readline():
        running.add(task := asyncio.create_task(handle(json.loads(line))))
        task.add_done_callback(running.discard)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
