"""What goes wrong on purpose: rules of the proxy, broken connections, a clock that is off."""

from __future__ import annotations

import asyncio
from typing import Any

from ..proxy import Rule
from ..world import WAIT, Failed, World
from .base import step


@step
async def rule(world: World, spec: dict[str, Any]) -> None:
    """Have the proxy do something when it sees a command. {"as", "on": [words], "do", "nth", "reply", "behind": [words], "or_script"}"""
    behind = [world.fill(word) for word in spec["behind"]] if "behind" in spec else None
    made = Rule(
        [world.fill(word) for word in spec["on"]],
        spec["do"],
        spec.get("nth", 1),
        spec.get("reply", "").encode(),
        behind,
        spec.get("or_script"),
    )
    world.proxy.rules.append(made)
    world.rules[spec.get("as", "rule")] = made


@step
async def fired(world: World, spec: dict[str, Any]) -> None:
    """Wait until a rule has fired. {"rule": label, "within_s"}"""
    label = spec.get("rule", "rule")
    try:
        async with asyncio.timeout(world.within(spec)):
            await world.rules[label].fired.wait()
    except TimeoutError:
        raise Failed(f"expected {world.rules[label].on} within {spec.get('within_s', WAIT):g} s; it was not sent") from None


@step
async def let_go(world: World, spec: dict[str, Any]) -> None:
    """Let a command go that a rule holds. {"rule": label}"""
    world.rules[spec.get("rule", "rule")].go.set()


@step
async def cut(world: World, spec: dict[str, Any]) -> None:
    """Break every connection of the port. {"refuse": true: and accept none until allow}"""
    world.proxy.refusing = spec.get("refuse", False)
    old = await _connections_at_redis(world)
    world.proxy.cut_all()

    async def noticed() -> bool:
        return not old & await _connections_at_redis(world)

    await world.poll("Redis to notice the cut", noticed)


async def _connections_at_redis(world: World) -> set[bytes]:
    """The ids of the port's connections, as Redis has them."""
    if not world.redis.acl:
        return set()
    clients = (await world.connection.run("CLIENT", "LIST")).splitlines()
    return {line.split(b" ", 1)[0] for line in clients if b" user=" + world.user.encode() + b" " in line}


@step
async def allow(world: World, spec: dict[str, Any]) -> None:
    """Accept connections again."""
    world.proxy.refusing = False


@step
async def kill_clients(world: World, spec: dict[str, Any]) -> None:
    """CLIENT KILL, as an operator would: every connection of the port's user."""
    await world.run("CLIENT", "KILL", "USER", world.user)


@step
async def shift_time(world: World, spec: dict[str, Any]) -> None:
    """Redis's clock is off by so many seconds, for the port. {"seconds"}"""
    world.proxy.time_shift = spec["seconds"]
