"""Every client calls every server: the checks that two ports make together."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from typing import Any, Final

from .driver import Driver, DriverError, Manifest
from .run import FAIL, HARNESS, NOT_RUN, Result
from .server import Redis, keys_of
from .steps import same

_VALUES: Final = {
    "numbers": [0, -1, 9007199254740991, -9007199254740991, 0.5, -1.25e-3, 1e300],
    "unicode": "šabïr 🎏 \u0000 \u2028 日本語",
    "nested": {"a": [1, {"b": [None, True, {"c": "d"}]}], "": {}, "__proto__": [[]]},
    "empty": [None, False, 0, "", [], {}],
    "large": "x" * 300_000,
}

_End = Driver | DriverError
"""A driver that was started, or why it was not."""
_Ends = tuple[_End, _End]
"""The client's and the server's."""


def cases() -> list[dict[str, Any]]:
    """The checks, as cases without steps: ``ask`` of the client, ``expect`` of its answer."""

    def made(id: str, title: str, rules: str, ask: dict[str, Any], expect: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {
            "id": f"cross/{id}",
            "role": "cross",
            "profile": "core",
            "title": title,
            "rules": [f"SABIR-{rule}" for rule in rules.split()],
            "ask": ask,
            "expect": expect,
            **more,
        }

    found = [
        made(
            "positional", "positional parameters", "REPLY-1", {"method": "add", "params": [1, 2]}, {"result": 3}, smoke=True
        ),
        made("named", "named parameters", "BODY-4", {"method": "add", "params": {"a": 1, "b": 2}}, {"result": 3}),
        made(
            "application-error",
            "an application error",
            "ERROR-2 ERROR-5",
            {"method": "fail", "params": [1234, "m", {"a": [1]}]},
            {"name": "ApplicationError", "code": 1234, "message": "m", "data": {"a": [1]}},
        ),
        made(
            "internal-error",
            "any other exception",
            "ERROR-1 ERROR-4",
            {"method": "boom", "params": []},
            {"name": "InternalError", "code": -32603},
        ),
        made(
            "unknown-method",
            "an unknown method",
            "BODY-2 ERROR-4",
            {"method": "nope", "params": []},
            {"name": "MethodNotFound", "code": -32601},
        ),
        made(
            "invalid-params",
            "parameters that do not fit",
            "BODY-4 ERROR-4",
            {"method": "add", "params": [1]},
            {"name": "InvalidParams", "code": -32602},
        ),
        made(
            "notification",
            "a notification",
            "CALL-7 DEAD-4",
            {"cmd": "notify", "method": "note", "params": ["x"]},
            {"outcome": "sent", "invoked": "note"},
        ),
        made(
            "many",
            "many calls at once",
            "CALL-1",
            {"cmd": "many", "calls": [["echo", [n]] for n in range(20)]},
            {"results": list(range(20))},
        ),
        made("concurrent", "calls side by side", "REPLY-4", {"cmd": "concurrent", "n": 16}, {}),
    ]
    found += [
        made(
            f"value-{name}",
            f"a value there and back: {name}",
            "JSON-1 REPLY-1",
            {"method": "echo", "params": [value]},
            {"result": value},
        )
        for name, value in _VALUES.items()
    ]
    return found


def pairs(manifests: list[Manifest]) -> list[tuple[Manifest, Manifest]]:
    """(client, server) of all drivers that can play the role."""
    clients = [manifest for manifest in manifests if "client" in manifest.roles]
    return [(client, server) for client in clients for server in manifests if "server" in server.roles]


async def run(
    chosen: list[tuple[Manifest, Manifest]],
    cases: list[dict[str, Any]],
    redis: Redis,
    report: Callable[[Result], None],
    stop: asyncio.Event,
) -> None:
    """Run the checks of all pairs; the drivers of a role run side by side."""
    url = redis.url
    namespace = f"t{secrets.token_hex(6)}"
    drivers: dict[tuple[str, str], _End] = {}
    for manifest, role in {
        (m.name, r): (m, r) for pair in chosen for m, r in zip(pair, ("client", "server"), strict=True)
    }.values():
        driver = Driver(manifest, role, url)
        try:
            await driver.start()
            if role == "server":
                await driver.ask(
                    "serve",
                    seconds=15.0,
                    url=url,
                    namespace=namespace,
                    service=manifest.name.replace(".", "-"),
                    concurrency=8,
                )
        except DriverError as error:
            drivers[manifest.name, role] = error
            await driver.stop()
        else:
            drivers[manifest.name, role] = driver
    try:
        for client, server in chosen:
            title = f"{client.name} → {server.name}"
            ends = (drivers[client.name, "client"], drivers[server.name, "server"])
            gate = asyncio.Semaphore(4)

            async def one(
                case: dict[str, Any], title: str = title, ends: _Ends = ends, gate: asyncio.Semaphore = gate
            ) -> None:
                calling, called = ends
                async with gate:
                    if stop.is_set():
                        report(Result(case, title, NOT_RUN, "a case before it failed (--fail-fast)"))
                    elif isinstance(calling, DriverError):
                        report(Result(case, title, HARNESS, str(calling)))
                    elif isinstance(called, DriverError):
                        report(Result(case, title, HARNESS, str(called)))
                    else:
                        report(await _check(case, title, calling, called, url, namespace))

            await asyncio.gather(*(one(case) for case in cases))
    finally:
        for end in drivers.values():
            if isinstance(end, Driver):
                if end.role == "server" and end.fault is None:
                    try:
                        await end.ask("stop", seconds=5.0, namespace=namespace, service=end.manifest.name.replace(".", "-"))
                    except DriverError:
                        pass  # it is stopped next
                await end.stop()
        await _clean(redis, namespace)


async def _clean(redis: Redis, namespace: str) -> None:
    connection = await redis.connect()
    keys = await keys_of(connection, namespace)
    if keys:
        await connection.run("DEL", *keys)
    await connection.close()


async def _check(case: dict[str, Any], title: str, client: Driver, server: Driver, url: str, namespace: str) -> Result:
    begin = time.monotonic()
    result = Result(case, title, "pass")
    marks = [(driver, driver.logged) for driver in (client, server)]
    place = {
        "url": url,
        "namespace": namespace,
        "service": server.manifest.name.replace(".", "-"),
        "timeout_ms": 8000,
        "name": "cross",
    }
    try:
        fault = await _ask(case, client, server, place)
    except DriverError as error:
        result.verdict, result.reason = HARNESS, str(error)
    else:
        if fault:
            result.verdict, result.reason = FAIL, fault
    result.seconds = time.monotonic() - begin
    if result.verdict != "pass":
        result.dialogue = [f"{driver.title} {line}" for driver, mark in marks for line in driver.since(mark)[-20:]]
        result.stderr = [*list(client.stderr)[-20:], *list(server.stderr)[-20:]]
    return result


async def _ask(case: dict[str, Any], client: Driver, server: Driver, place: dict[str, Any]) -> str | None:
    """What is wrong, or None."""
    ask, expect = case["ask"], case["expect"]
    command = ask.get("cmd", "call")
    if command == "concurrent":
        answers = await asyncio.gather(
            *(client.ask("call", 15.0, method="echo", params=json.dumps([n]), **place) for n in range(ask["n"]))
        )
        wrong = [a for n, a in enumerate(answers) if a.get("value") is None or not same(json.loads(a["value"]), n)]
        return f"expected each call's own result, got {wrong[:3]}" if wrong else None
    if command == "many":
        calls = [{"method": method, "params": json.dumps(params)} for method, params in ask["calls"]]
        answer = await client.ask("many", 15.0, calls=calls, **place)
        if answer.get("error") == "unsupported":
            return None
        got = [json.loads(outcome["value"]) if "value" in outcome else outcome for outcome in answer["outcomes"]]
        return None if same(got, expect["results"]) else f"expected {expect['results']}, got {got}"
    before = [event.get("method") for event in server.events].count(expect.get("invoked"))
    answer = await client.ask(command, 15.0, method=ask["method"], params=json.dumps(ask["params"]), **place)
    if "result" in expect and (
        answer.get("outcome") != "result" or not same(json.loads(answer["value"]), expect["result"])
    ):
        return f"expected the result {json.dumps(expect['result'])[:200]}, got {json.dumps(answer)[:300]}"
    for name in ("outcome", "name", "code", "message"):
        if name in expect and answer.get(name) != expect[name]:
            return f"expected {name} {expect[name]!r}, got {json.dumps(answer)[:300]}"
    if "data" in expect and ("data" not in answer or not same(json.loads(answer["data"]), expect["data"])):
        return f"expected the data {expect['data']}, got {json.dumps(answer)[:300]}"
    if "invoked" in expect:
        seen = await server.event(lambda event: event.get("method") == expect["invoked"], 3.0, before + 1)
        return None if seen else f"expected an invocation of {expect['invoked']}, got none"
    return None
