"""The client under test: it calls, the runner answers as a worker would, and its calls end."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from ..proxy import show
from ..world import Failed, Sent, World
from .base import long_enough, same, step, strict_json


@step
async def call(world: World, spec: dict[str, Any]) -> None:
    """Have the port call. {"as", "method", "params" | "params_text", "timeout_ms", "idempotent", "max_queue", "retry", "many": [[method, params]…]}"""
    label = spec.get("as", "c")
    await _ask_client(world, label, "many" if "many" in spec else "call", spec)


@step
async def notify(world: World, spec: dict[str, Any]) -> None:
    """Have the port notify. {"as", "method", "params", "expires_ms", "idempotent", "max_queue"}"""
    await _ask_client(world, spec.get("as", "c"), "notify", spec)


@step
async def wait(world: World, spec: dict[str, Any]) -> None:
    """Have the port wait until somebody serves. {"as", "timeout_ms"}"""
    await _ask_client(world, spec.get("as", "c"), "wait", spec)


@step
async def close(world: World, spec: dict[str, Any]) -> None:
    """Have the port close its clients."""
    await world.driver.ask("close", url=world.url, namespace=world.namespace)


@step
async def serves(world: World, spec: dict[str, Any]) -> None:
    """Say that somebody serves; or, {"not": true}, that nobody does any more."""
    if spec.get("not"):
        await world.run("DEL", world.key("alive"))
    else:
        await world.serves()


@step
async def replies_left(world: World, spec: dict[str, Any]) -> None:
    """At most so many replies lie in the client's lists, at last. {"at_most"}"""
    prefix = world.key("reply:").encode()

    async def look() -> bool:
        lists = [key for key in await world.keys() if key.startswith(prefix)]
        counts = await world.connection.run_all([("LLEN", key) for key in lists]) if lists else []
        return bool(sum(counts) <= spec["at_most"])

    await world.poll(f"at most {spec['at_most']} replies that nobody has removed", look)


async def _ask_client(world: World, label: str, command: str, spec: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {
        "url": world.url,
        "namespace": spec.get("namespace", world.namespace),
        "service": spec.get("service", world.service),
        "name": spec.get("name", world.client_name),
    }
    for name in ("method", "timeout_ms", "idempotent", "expires_ms", "value", "max_queue", "retry"):
        if name in spec:
            arguments[name] = spec[name]
    if "params_text" in spec:
        arguments["params"] = spec["params_text"]
    elif "params" in spec:
        arguments["params"] = json.dumps(spec["params"])
    elif "parts" in spec:
        arguments["params"] = "".join(p if isinstance(p, str) else p["repeat"] * p["times"] for p in spec["parts"])
    if "many" in spec:
        arguments["calls"] = [{"method": method, "params": json.dumps(params)} for method, params in spec["many"]]
    seconds = (arguments.get("timeout_ms") or 30_000) / 1000 + 5.0
    world.started[label] = time.monotonic()
    world.patience[label] = seconds - 0.5

    async def ask() -> dict[str, Any]:
        answer = await world.driver.ask(command, seconds=seconds, **arguments)
        answer["took_ms"] = (time.monotonic() - world.started[label]) * 1000
        return answer

    world.calls[label] = asyncio.create_task(ask())


@step
async def take(world: World, spec: dict[str, Any]) -> None:
    """As a worker, take what the port has pushed. {"as": label, "within_s"}; keeps it for answer and element"""
    label = spec.get("as", "c")

    async def look() -> Any:
        return await world.connection.run("LPOP", world.key("requests"))

    raw = await world.poll("a request in the queue", look, world.within(spec))
    world.transcript.add("runner", "<", f"requests: {show(raw)}")
    envelope = strict_json(raw, "request")
    world.check_schema("request", envelope, "request")
    if "id" in envelope["body"] and envelope["body"]["id"] != envelope["id"]:
        raise Failed("request: expected the body's id to equal the envelope's")
    world.requests[label] = Sent(envelope["id"], envelope.get("reply_to"), raw, envelope)


@step
async def element(world: World, spec: dict[str, Any]) -> None:
    """What a taken request holds. {"of": label, "has": {dotted name: value}, "lacks": [dotted names], "starts", "deadline_in_ms"}"""
    sent = world.requests[spec.get("of", "c")]
    missing = object()

    def look_up(path: str) -> Any:
        value = sent.envelope
        for part in path.split("."):
            value = value.get(part, missing) if isinstance(value, dict) else missing
        return value

    for path, wanted in spec.get("has", {}).items():
        got = look_up(path)
        if got is missing or not same(got, wanted):
            raise Failed(
                f"request: expected {path} {json.dumps(wanted)}, got {'none' if got is missing else json.dumps(got)}"
            )
    for path in spec.get("lacks", []):
        if look_up(path) is not missing:
            raise Failed(f"request: expected no {path}, got {json.dumps(look_up(path))}")
    for path in spec.get("lacks_true", []):
        if look_up(path) is True:
            raise Failed(f"request: expected no {path}, got true")
    if "first_members" in spec:
        got_names = list(sent.envelope)[: len(spec["first_members"])]
        if sorted(got_names) != sorted(spec["first_members"]):
            raise Failed(f"request: expected {spec['first_members']} first, got {got_names}")
    if "deadline_in_ms" in spec:
        least, most = spec["deadline_in_ms"]
        left = sent.envelope.get("deadline", 0) - await world.now_ms()
        if not least <= left <= most:
            raise Failed(f"request: expected a deadline in {least} to {most} ms, got {left}")
    if "size" in spec and len(sent.element) != spec["size"]:
        raise Failed(f"request: expected {spec['size']} bytes, got {len(sent.element)}")


@step
async def different(world: World, spec: dict[str, Any]) -> None:
    """Two taken requests differ in a member. {"of": [labels], "in": "id" | "reply_to"}"""
    values = [world.requests[label].envelope.get(spec["in"]) for label in spec["of"]]
    if len(set(values)) != len(values):
        raise Failed(f"expected different {spec['in']}, got {values}")


@step
async def answer(world: World, spec: dict[str, Any]) -> None:
    """As a worker, answer. {"to": label; result | error | raw (text, base64, parts); "envelope", "body": changes; "times"; "id_of"}"""
    sent = world.requests[spec.get("to", "c")]
    assert sent.token is not None
    if {"text", "base64", "parts"} & spec.keys():
        reply = world.bytes_of(spec, sent.id, None)
    else:
        id = world.requests[spec["id_of"]].id if "id_of" in spec else spec.get("id", sent.id)
        body: dict[str, Any] = {"jsonrpc": "2.0", "id": id}
        body |= {name: spec[name] for name in ("result", "error") if name in spec}
        body |= spec.get("body", {})
        envelope = {"v": 1, "id": id, "worker": "script.1", "body": body} | spec.get("envelope", {})
        reply = json.dumps(envelope, ensure_ascii=False).encode()
    key = world.key(f"reply:{sent.token}")
    for _ in range(spec.get("times", 1)):
        await world.run("RPUSH", key, reply)
    await world.run("PEXPIRE", key, "60000", log=False)


@step
async def answer_param(world: World, spec: dict[str, Any]) -> None:
    """As a worker, answer a call with its own first parameter. {"to": label}"""
    label = spec["to"]
    await answer(world, {"to": label, "result": world.requests[label].envelope["body"]["params"][0]})


@step
async def outcome(world: World, spec: dict[str, Any]) -> None:
    """How a call ended. {"of": label; "is": result | error | timeout | …; result, code, message, data; "within_ms": [least, most]}"""
    label = spec.get("of", "c")
    most = 3_000 if spec.get("is") == "refused_locally" else float("inf")
    answer = await _end_of(world, label, spec.get("within_ms", (0, most))[1] / 1000 + 0.3)
    if "is" in spec and answer.get("outcome") not in (spec["is"] if isinstance(spec["is"], list) else [spec["is"]]):
        raise Failed(f"call {label}: expected {spec['is']}, got {_short(answer)}")
    if "result" in spec:
        if answer.get("outcome") != "result" or not same(json.loads(answer["value"]), spec["result"]):
            raise Failed(f"call {label}: expected the result {json.dumps(spec['result'])[:200]}, got {_short(answer)}")
    for name in ("code", "message", "name"):
        if name in spec and answer.get(name) != spec[name]:
            raise Failed(f"call {label}: expected {name} {spec[name]!r}, got {_short(answer)}")
    if "code_in" in spec and answer.get("code") not in spec["code_in"]:
        raise Failed(f"call {label}: expected one of the codes {spec['code_in']}, got {_short(answer)}")
    # Absent data and null may be one to a language (SABIR-ERROR-5).
    if "data" in spec and not same(json.loads(answer.get("data", "null")), spec["data"]):
        raise Failed(f"call {label}: expected the data {json.dumps(spec['data'])}, got {_short(answer)}")
    if "many" in spec:
        outcomes = answer.get("outcomes", [])
        if len(outcomes) != len(spec["many"]):
            raise Failed(f"call {label}: expected {len(spec['many'])} outcomes, got {_short(answer)}")
        for wanted, got in zip(spec["many"], outcomes, strict=True):
            if "result" in wanted and (
                got.get("outcome") != "result" or not same(json.loads(got["value"]), wanted["result"])
            ):
                raise Failed(f"call {label}: expected {wanted}, got {_short(got)}")
            if "code" in wanted and got.get("code") != wanted["code"]:
                raise Failed(f"call {label}: expected {wanted}, got {_short(got)}")
    least, most = spec.get("within_ms", (0, float("inf")))
    if not least <= answer["took_ms"] <= most:
        raise Failed(f"call {label}: expected an end after {least} to {most} ms, got {answer['took_ms']:.0f} ms")


async def _end_of(world: World, label: str, seconds: float) -> dict[str, Any]:
    """How a call has ended, at the latest before the driver's time is up: a call without an end is the port's fault."""
    seconds = min(seconds, world.patience[label])
    left = max(world.started[label] + seconds - time.monotonic(), 0.1)
    done, _ = await asyncio.wait([world.calls[label]], timeout=left)
    if not done:
        raise Failed(f"call {label}: expected an end, got none within {seconds:.1f} s")
    return world.calls[label].result()


def _short(answer: dict[str, Any]) -> str:
    return json.dumps({k: v for k, v in answer.items() if k not in {"id", "took_ms"}})[:400]


@step
async def pending(world: World, spec: dict[str, Any]) -> None:
    """A call has not ended yet. {"of": label}"""
    label = spec.get("of", "c")
    await asyncio.sleep(spec.get("for_s", 0.1))
    if world.calls[label].done():
        raise Failed(f"call {label}: expected it to wait, got {_short(await world.calls[label])}")


@step
async def outcome_or_take(world: World, spec: dict[str, Any]) -> None:
    """A push that was refused for a moment: sent again and answered, or ended with NotQueued."""
    task = world.calls["c"]

    async def look() -> Any:
        return task.done() or await world.connection.run("LLEN", world.key("requests"))

    await world.poll("the push again, or NotQueued", look)
    if task.done():
        await outcome(world, {"is": "transport_error", "code": -32010})
        return
    await take(world, {})
    await answer(world, {"result": 1})
    await outcome(world, {"result": 1})


@step
async def random(world: World, spec: dict[str, Any]) -> None:
    """Ids differ in most of their digits. {"of": [labels]}"""
    ids = [world.requests[label].id for label in spec["of"]]
    fixed = sum(len(set(column)) == 1 for column in zip(*ids, strict=True))
    if fixed > 4:  # a column of six equal random digits comes once in a million
        raise Failed(f"ids: expected 128 random bits, got {fixed} digits that never change: {ids}")


@step
async def token(world: World, spec: dict[str, Any]) -> None:
    """The token is the client's name, a dot and 64 random bits. {"of": label, "name", "digits"}"""
    got = world.requests[spec.get("of", "c")].token or ""
    if not got.startswith(spec["name"] + "."):
        raise Failed(f"token: expected {spec['name']}.<random>, got {got!r}")
    long_enough("token", got, spec["digits"])
