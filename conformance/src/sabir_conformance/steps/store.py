"""What is in Redis: commands of the runner, and what keys, hands and leases have come to; time that passes."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from ..proxy import show
from ..world import Failed, World
from .base import step


@step
async def redis(world: World, spec: list[Any]) -> None:
    """A command of the runner, with {keys} filled in."""
    await world.run(*[world.fill(word) if isinstance(word, str) else word for word in spec])


@step
async def key(world: World, spec: dict[str, Any]) -> None:
    """What a key is, at last. {"key": role; "type"; "length"; "ttl_ms": [least, most]; "exists": bool; "within_s"}"""
    name = world.fill("{" + spec["key"] + "}")
    seen: Any = None

    async def look() -> bool:
        nonlocal seen
        kind, ttl = await world.connection.run_all([("TYPE", name), ("PTTL", name)])
        size = {"list": "LLEN", "zset": "ZCARD", "hash": "HLEN", "set": "SCARD", "string": "STRLEN"}.get(kind)
        length = await world.connection.run(size, name) if size else 0
        seen = {"type": kind, "length": length, "ttl_ms": ttl}
        least, most = spec.get("ttl_ms", (-2, 1 << 60))
        return bool(
            spec.get("exists", kind != "none") == (kind != "none")
            and spec.get("type", kind) == kind
            and spec.get("length", length) == length
            and least <= ttl <= most
        )

    try:
        await world.poll(name, look, world.within(spec))
    except Failed:
        raise Failed(f"{name}: expected { ({k: v for k, v in spec.items() if k != 'key'}) }, got {seen}") from None
    world.transcript.add("runner", "<", f"{name}: {seen}")


@step
async def lease(world: World, spec: dict[str, Any]) -> None:
    """When the worker's lease ends, from now. {"ms": [least, most]; or "absent": true}"""
    score = await world.run("ZSCORE", world.key("leases"), world.worker)
    if spec.get("absent"):
        if score is not None:
            raise Failed(f"lease: expected none, got {score!r}")
        return
    if score is None:
        raise Failed("lease: expected one, got none")
    left = float(score) - await world.now_ms()
    least, most = spec["ms"]
    if not least <= left <= most:
        raise Failed(f"lease: expected it to end in {least} to {most} ms, got {left:.0f}")


@step
async def pause(world: World, spec: dict[str, Any]) -> None:
    """Let time pass that is itself what is tested (a heartbeat, an expiry). {"ms", "why"}"""
    await asyncio.sleep(spec["ms"] / 1000)


@step
async def stays(world: World, spec: dict[str, Any]) -> None:
    """A list has a length, and keeps it. {"key", "length", "for_s"}"""
    name = world.fill("{" + spec["key"] + "}")
    ends = time.monotonic() + spec["for_s"]
    while time.monotonic() < ends:
        length = await world.connection.run("LLEN", name)
        if length != spec["length"]:
            raise Failed(f"{name}: expected length {spec['length']} for {spec['for_s']} s, got {length}")
        await asyncio.sleep(0.02)
    world.transcript.add("runner", "<", f"{name}: length {spec['length']} for {spec['for_s']} s")


@step
async def hand_is(world: World, spec: dict[str, Any]) -> None:
    """The hand holds exactly the bytes of a request. {"of": label}"""
    hand = await world.run("LRANGE", world.fill("{active}"), 0, -1)
    if hand != [world.requests[spec["of"]].element]:
        raise Failed(f"hand: expected the element as it was sent, got {show(hand)}")


@step
async def queue_is(world: World, spec: list[str]) -> None:
    """The queue holds exactly the bytes of these requests, in this order."""
    waiting = await world.run("LRANGE", world.key("requests"), 0, -1)
    if waiting != [world.requests[label].element for label in spec]:
        raise Failed(f"queue: expected the elements of {spec} as they were sent, got {show(waiting)}")


@step
async def no_orphan(world: World, spec: dict[str, Any]) -> None:
    """A hand that is not empty has a lease: otherwise nobody would ever look there again."""
    hand = await world.run("LLEN", world.fill("{active}"))
    score = await world.run("ZSCORE", world.key("leases"), world.worker)
    if hand and score is None:
        raise Failed(f"hand: expected it empty, or a lease, got {hand} elements and no lease")


@step
async def fill_dead(world: World, spec: dict[str, Any]) -> None:
    """Dead letters that are there already. {"count"}"""
    letter = json.dumps({"v": 1, "at": 1, "worker": "old.1", "error": {"code": 1, "message": "old"}, "element": "old"})
    await world.connection.run("RPUSH", world.key("dead"), "oldest", *[letter] * (spec["count"] - 1))


@step
async def oldest_dead_gone(world: World, spec: dict[str, Any]) -> None:
    """The oldest dead letter made room."""
    if await world.connection.run("LINDEX", world.key("dead"), 0) == b"oldest":
        raise Failed("dead: expected the oldest to be gone, got it still at the head")


@step
async def flood(world: World, spec: dict[str, Any]) -> None:
    """Elements that nobody can read. {"count"}"""
    await world.connection.run("RPUSH", world.key("requests"), *[f"bad {n}" for n in range(spec["count"])])


@step
async def queue(world: World, spec: dict[str, Any]) -> None:
    """The queue has so many elements. {"length"}"""
    name = world.key("requests")

    async def look() -> bool:
        return bool(await world.connection.run("LLEN", name) == spec["length"])

    try:
        await world.poll(name, look)
    except Failed:
        raise Failed(f"queue: expected {spec['length']} elements, got {await world.connection.run('LLEN', name)}") from None
