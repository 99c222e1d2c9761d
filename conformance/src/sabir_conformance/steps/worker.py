"""The worker under test: it is started, sent requests and stopped; what it replies, runs and keeps as dead letters."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from typing import Any, Final

from ..proxy import show
from ..world import WAIT, Failed, World
from .base import QUIET, expect_outcome, long_enough, step, strict_json


@step
async def serve(world: World, spec: dict[str, Any]) -> None:
    """Start the worker. {"concurrency": how many handlers at once, "handler_timeout_ms"}"""
    answer = await world.driver.ask(
        "serve", seconds=15.0, url=world.url, namespace=world.namespace, service=world.service, **spec
    )
    world.worker = answer["worker"]


@step
async def stop(world: World, spec: dict[str, Any]) -> None:
    """Tell the worker to stop. {"wait": false: do not wait until it has; "within_s"}"""
    task = asyncio.create_task(
        world.driver.ask("stop", seconds=spec.get("within_s", 10.0), namespace=world.namespace, service=world.service)
    )
    world.calls["stop"] = task
    if spec.get("wait", True):
        await task
        world.worker_stopped = True


@step
async def stopped(world: World, spec: dict[str, Any]) -> None:
    """Wait until a stop that was not waited for is over. {"within_s"}"""
    async with asyncio.timeout(spec.get("within_s", 10.0)):
        await world.calls["stop"]
    world.worker_stopped = True


@step
async def push(world: World, spec: dict[str, Any]) -> None:
    """Push a request. {"as": a label; method, params, notification, deadline_in_ms, envelope, body; or text, base64, parts}"""
    sent = await world.compose(spec)
    world.requests[spec.get("as", "a")] = sent
    await world.run("RPUSH", world.key("requests"), sent.element)


@step
async def push_again(world: World, spec: dict[str, Any]) -> None:
    """Push a request that was delivered before, and whose worker was lost. {as push, "attempts": deliveries that were lost}"""
    sent = await world.compose(spec)
    world.requests[spec.get("as", "a")] = sent
    await world.run("SET", world.key(f"attempts:{sent.id}"), spec["attempts"], "PX", "600000")
    await world.run("RPUSH", world.key("requests"), sent.element)


@step
async def push_many(world: World, spec: dict[str, Any]) -> None:
    """Push many calls in one RPUSH. {"count", method, params}; they get the labels m0, m1, …"""
    made = [await world.compose(spec) for _ in range(spec["count"])]
    world.requests |= {f"m{n}": sent for n, sent in enumerate(made)}
    await world.run("RPUSH", world.key("requests"), *[sent.element for sent in made])


@step
async def answered_or_queued(world: World, spec: dict[str, Any]) -> None:
    """Each of push_many's calls has one reply, or lies in the queue once; at least one of each. {"count"}"""
    labels = [f"m{n}" for n in range(spec["count"])]
    sent = [world.requests[label] for label in labels]
    waiting = await world.run("LRANGE", world.key("requests"), 0, -1)
    replies = await world.connection.run_all([("LLEN", world.key(f"reply:{one.token}")) for one in sent])
    ends = [waiting.count(one.element) + answered for one, answered in zip(sent, replies, strict=True)]
    if set(ends) != {1} or not waiting or len(waiting) == len(sent):
        raise Failed(
            f"expected each call answered once or queued once, and both to happen, got {ends}, {len(waiting)} queued"
        )


@step
async def served_or_stopped(world: World, spec: dict[str, Any]) -> None:
    """A call is answered; or the worker has said goodbye and left it in the queue. {"of": label, "within_s"}"""
    sent = world.requests[spec["of"]]

    async def look() -> bool:
        answered, waiting, score = await world.connection.run_all(
            [
                ("LLEN", world.key(f"reply:{sent.token}")),
                ("LLEN", world.key("requests")),
                ("ZSCORE", world.key("leases"), world.worker),
            ]
        )
        return bool(answered or (waiting and score is None))

    await world.poll("an answer, or a goodbye", look, spec["within_s"])


@step
async def push_same_token(world: World, spec: dict[str, Any]) -> None:
    """Push a call whose replies go where another's went. {"as", "token_of": label, method, params}"""
    token = world.requests[spec["token_of"]].token
    await push(world, {**spec, "envelope": {"reply_to": token}})
    world.requests[spec["as"]].token = token


@step
async def reply(world: World, spec: dict[str, Any]) -> None:
    """Wait for the reply. {"to": label; result | code | code_in | any; "data"; "within_s"; "after_ms": not before}"""
    sent = world.requests[spec.get("to", "a")]
    assert sent.token is not None
    key = world.key(f"reply:{sent.token}")

    async def look() -> Any:
        return await world.connection.run("LPOP", key)

    begin = time.monotonic()
    raw = await world.poll(f"a reply to {spec.get('to', 'a')}", look, world.within(spec))
    if (time.monotonic() - begin) * 1000 < spec.get("after_ms", 0):
        raise Failed(f"reply: expected none before {spec['after_ms']} ms, got {show(raw)}")
    world.transcript.add("runner", "<", f"{key}: {show(raw)}")
    envelope = strict_json(raw, "reply")
    world.check_schema("reply", envelope, "reply")
    body = envelope["body"]
    if (envelope["id"], body["id"]) != (sent.id, sent.id):
        raise Failed(f"reply: expected the id {sent.id} twice, got {envelope['id']} and {body['id']}")
    mine = {world.worker, *(id for label, id in world.workers.items() if label in world.processes)}
    if world.worker and envelope["worker"] not in mine:
        raise Failed(f"reply: expected worker {world.worker}, got {envelope['worker']}")
    expect_outcome(body, spec)


@step
async def no_reply(world: World, spec: dict[str, Any]) -> None:
    """Nothing is answered. {"to": label, "for_s"}"""
    sent = world.requests[spec.get("to", "a")]
    if sent.token is None:
        pattern = world.key("reply:*")
        await asyncio.sleep(spec.get("for_s", QUIET))
        found = [key for key in await world.keys() if key.startswith(pattern[:-1].encode())]
        if found:
            raise Failed(f"expected no reply to a notification, got {found}")
        return
    raw = await world.run("BLPOP", world.key(f"reply:{sent.token}"), spec.get("for_s", QUIET), log=True)
    if raw:
        raise Failed(f"expected no reply to {spec.get('to', 'a')}, got {show(raw[1])}")


KEPT_BYTES: Final = 16_777_216


@step
async def dead(world: World, spec: dict[str, Any]) -> None:
    """A dead letter of the request is there, whole, or cut if it is huge. {"of": label, "code", "within_s", "kept": bytes}"""
    sent = world.requests[spec.get("of", "a")]
    key = world.key("dead")

    async def look() -> Any:
        for raw in reversed(await world.connection.run("LRANGE", key, "-50", "-1")):
            letter = strict_json(raw, "dead letter")
            world.check_schema("dead-letter", letter, "dead letter")
            element = letter["element"].encode() if "element" in letter else base64.b64decode(letter["element_base64"])
            # What recovery keeps of what is not UTF-8 is less (SABIR-RECOVER-4).
            if element == sent.element[: spec.get("kept", KEPT_BYTES)]:
                if letter.get("size", len(element)) != len(sent.element):
                    raise Failed(f"dead letter: expected the element's size {len(sent.element)}, got {letter.get('size')}")
                return letter
        return None

    letter = await world.poll(f"a dead letter of {spec.get('of', 'a')}", look, world.within(spec))
    world.transcript.add("runner", "<", f"{key}: {show(json.dumps(letter).encode())}")
    if "code" in spec and letter["error"]["code"] != spec["code"]:
        raise Failed(f"dead letter: expected the error {spec['code']}, got {letter['error']}")
    if world.worker and letter["worker"] != world.worker:
        raise Failed(f"dead letter: expected worker {world.worker}, got {letter['worker']}")
    if abs(letter["at"] - await world.now_ms()) > 5_000:
        raise Failed(f"dead letter: expected Redis's clock at this moment, got {letter['at']}")


@step
async def no_dead(world: World, spec: dict[str, Any]) -> None:
    """There are no dead letters."""
    count = await world.run("LLEN", world.key("dead"))
    if count:
        raise Failed(f"expected no dead letters, got {count}")


@step
async def settled(world: World, spec: dict[str, Any]) -> None:
    """An open vector: it was answered, or it is a dead letter. {"of": label}"""
    sent = world.requests[spec.get("of", "a")]

    async def look() -> Any:
        reply, letters = await world.connection.run_all(
            [("LLEN", world.key(f"reply:{sent.token}")), ("LLEN", world.key("dead"))]
        )
        return reply or letters

    await world.poll("a reply or a dead letter", look)


def _is_invocation(world: World, spec: dict[str, Any]) -> Callable[[dict[str, Any]], bool]:
    return lambda event: (
        event["event"] == "invoked"
        and event.get("namespace", world.namespace) == world.namespace
        and ("method" not in spec or event["method"] == spec["method"])
    )


@step
async def invoked(world: World, spec: dict[str, Any]) -> None:
    """A handler was started. {"method", "times": at least, and exactly after a pause if "exactly"; "in": a process; "within_s"}"""
    times = spec.get("times", 1)
    matches = _is_invocation(world, spec)
    source = world.processes[spec["in"]] if "in" in spec else world.driver
    if not await source.event(matches, world.within(spec), times):
        raise Failed(
            f"expected {times} invocations of {spec.get('method', 'any method')}, got {sum(map(matches, source.events))}"
        )
    if spec.get("exactly"):
        await asyncio.sleep(QUIET)
        got = sum(map(matches, world.events()))
        if got != times:
            raise Failed(f"expected exactly {times} invocations of {spec.get('method', 'any method')}, got {got}")


@step
async def not_invoked(world: World, spec: dict[str, Any]) -> None:
    """No handler was started, in no process. {"method", "for_s"}"""
    await asyncio.sleep(spec.get("for_s", 0))
    got = sum(map(_is_invocation(world, spec), world.events()))
    if got:
        raise Failed(f"expected no invocation of {spec.get('method', 'any method')}, got {got}")


@step
async def invoked_in_order(world: World, spec: list[str]) -> None:
    """Handlers were started in this order."""
    matches = _is_invocation(world, {})
    await world.driver.event(matches, WAIT, len(spec))
    got = [event["method"] for event in world.driver.events if matches(event)]
    if got != spec:
        raise Failed(f"expected the invocations {spec}, got {got}")


@step
async def remember_worker(world: World, spec: dict[str, Any]) -> None:
    """Keep the worker's id to compare."""
    world.first_worker = world.worker


@step
async def worker_differs(world: World, spec: dict[str, Any]) -> None:
    """The worker has another id than before."""
    world.worker_stopped = False
    if world.worker == world.first_worker:
        raise Failed(f"worker: expected another id after a new start, got {world.worker} again")


@step
async def worker_random(world: World, spec: dict[str, Any]) -> None:
    """The random part of the worker's id is long enough for 64 bits. {"digits": hexadecimal}"""
    long_enough("worker", world.worker, spec["digits"])


@step
async def stderr_lacks(world: World, spec: dict[str, Any]) -> None:
    """Nothing of the driver's stderr holds a text. {"text"}"""
    lines = [line for line in world.driver.stderr if spec["text"] in line]
    if lines:
        raise Failed(f"log: expected no payload, got {lines[0][:300]!r}")
