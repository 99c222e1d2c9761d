"""Workers in processes of their own, and a Redis of the case's own: what can be killed, paused and started again."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal as signals
from pathlib import Path
from typing import Any

from ..driver import Driver
from ..world import Failed, Sent, World
from .base import step


@step
async def process(world: World, spec: dict[str, Any]) -> None:
    """Start a worker of the same port in a process of its own. {"as": label, "concurrency"}"""
    driver = Driver(world.driver.manifest, "server", world.redis.url)
    world.processes[spec["as"]] = driver
    await driver.start()
    options = {"concurrency": spec["concurrency"]} if "concurrency" in spec else {}
    answer = await driver.ask(
        "serve", seconds=15.0, url=world.url, namespace=world.namespace, service=world.service, **options
    )
    world.workers[spec["as"]] = answer["worker"]


@step
async def signal(world: World, spec: dict[str, Any]) -> None:
    """Send a signal to a worker's process. {"to": label, "signal": KILL | STOP | CONT | TERM}"""
    driver = world.processes[spec["to"]]
    os.killpg(driver.pid, getattr(signals, f"SIG{spec['signal']}"))
    world.transcript.add("runner", "!", f"SIG{spec['signal']} to {spec['to']} ({world.workers[spec['to']]})")
    if spec["signal"] == "KILL":
        await world.poll("the process to end", lambda: _ended(driver))
    elif spec["signal"] == "STOP":
        await world.poll("the process to stop", lambda: _stopped(driver))


async def _stopped(driver: Driver) -> bool:
    """Whether all its threads have stopped; where there is no /proc, that is taken for granted."""
    stats = [path.read_text() for path in Path(f"/proc/{driver.pid}/task").glob("*/stat")]
    return all(stat.rpartition(")")[2].split()[0] in "Tt" for stat in stats)


async def _ended(driver: Driver) -> bool:
    return not driver.alive


@step
async def end_lease(world: World, spec: dict[str, Any]) -> None:
    """Have a worker's lease end now, as it would by itself within 10 s. {"of": label; or "of_the_dead": wait for one more}"""
    if "of" in spec:
        await world.run("ZADD", world.key("leases"), "1", world.workers[spec["of"]])
        return

    async def look() -> list[str]:
        return [label for label, driver in world.processes.items() if not driver.alive and label not in world.ended]

    for label in await world.poll("a process to end", look):
        world.ended.add(label)
        await world.run("ZADD", world.key("leases"), "1", world.workers[label])


@step
async def invoked_anywhere(world: World, spec: dict[str, Any]) -> None:
    """Handlers were started so often, in whichever process. {"method", "times", "within_s"}"""

    async def look() -> bool:
        count = sum(e["event"] == "invoked" and e["method"] == spec["method"] for e in world.events())
        return bool(count >= spec["times"])

    await world.poll(f"{spec['times']} invocations of {spec['method']}", look, world.within(spec))


@step
async def lost_worker(world: World, spec: dict[str, Any]) -> None:
    """A worker that is gone, with requests in its hand, oldest first. {"as": label, "holds": [push…], "lease_in_ms"}"""
    name = f"gone.{secrets.token_hex(8)}"
    world.workers[spec.get("as", "gone")] = name
    hand: list[bytes] = []
    for held in spec["holds"]:
        sent: Sent = await world.compose(held)
        if "attempts" in held:
            await world.run("SET", world.key(f"attempts:{sent.id}"), held["attempts"], "PX", "600000")
        world.requests[held.get("as", "a")] = sent
        hand += [sent.element] * held.get("times", 1)
    if hand:
        await world.run("RPUSH", world.key(f"active:{name}"), *hand)
    ends = await world.now_ms() + spec["lease_in_ms"] if "lease_in_ms" in spec else 1
    await world.run("ZADD", world.key("leases"), ends, name)


@step
async def hand_of(world: World, spec: dict[str, Any]) -> None:
    """How many elements a worker's hand holds, at last. {"of": label, "length" | "below", "within_s"}"""
    name = world.key(f"active:{world.workers[spec['of']]}")
    seen = 0

    async def look() -> bool:
        nonlocal seen
        seen = await world.connection.run("LLEN", name)
        return bool(seen < spec["below"] if "below" in spec else seen == spec["length"])

    try:
        await world.poll(name, look, world.within(spec))
    except Failed:
        wanted = f"below {spec['below']}" if "below" in spec else str(spec["length"])
        raise Failed(f"hand of {spec['of']}: expected {wanted} elements, got {seen}") from None


@step
async def lease_of(world: World, spec: dict[str, Any]) -> None:
    """Whether a worker has a lease, at last. {"of": label, "exists": bool, "within_s"}"""

    async def look() -> bool:
        score = await world.connection.run("ZSCORE", world.key("leases"), world.workers[spec["of"]])
        return (score is not None) == bool(spec["exists"])

    await world.poll(f"{'a' if spec['exists'] else 'no'} lease of {spec['of']}", look, world.within(spec))


# ---------------------------------------------------------------------------------------------------- Redis itself


@step
async def redis_ends(world: World, spec: dict[str, Any]) -> None:
    """The case's own Redis ends. {"how": "stop" | "kill"}"""
    assert world.own is not None
    await world.connection.close()
    await asyncio.to_thread(world.own.stop if spec.get("how") != "kill" else world.own.terminate)
    world.transcript.add("runner", "!", "Redis ended")


@step
async def redis_starts(world: World, spec: dict[str, Any]) -> None:
    """The case's own Redis starts again, with its data. {"empty": true: without}"""
    assert world.own is not None
    await asyncio.to_thread(world.own.start)
    world.connection = await world.redis.connect()
    if spec.get("empty"):
        await world.run("FLUSHALL")
    world.transcript.add("runner", "!", "Redis started")
