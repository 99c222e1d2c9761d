"""What the proxy saw: which commands the port sent, in which order, over which connections."""

from __future__ import annotations

import contextlib
import re
from typing import Any

from ..proxy import Seen, begins, runs, show
from ..world import WAIT, Failed, World
from .base import step


def commands_of(world: World, words: list[str], since_mark: bool = False) -> list[Seen]:
    """The port's commands that begin with the words, keys filled in; * stands for any word."""
    wanted = [world.fill(word) for word in words]
    return [seen for seen in world.proxy.seen[world.mark if since_mark else 0 :] if begins(seen.words, wanted)]


@step
async def wire(world: World, spec: dict[str, Any]) -> None:
    """What the port sent. {"sequence": [[words]…]: one after the other on one connection; "one_write"; "count": {…}}

    ``count``: {"of": [words], "is" | "at_least" | "at_most": n}. ``within_s``: how long it may take to be seen.
    """
    if "count" in spec:
        rule = spec["count"]

        def right() -> bool:
            n = len(commands_of(world, rule["of"], spec.get("since_mark", False)))
            return bool(rule.get("is", n) == n and rule.get("at_least", n) <= n <= rule.get("at_most", n))

        if "at_least" in rule:
            try:
                await world.proxy.wait_for(right, world.within(spec))
            except TimeoutError:
                pass
        if not right():
            seen = commands_of(world, rule["of"], spec.get("since_mark", False))
            raise Failed(f"wire: expected {rule}, got {len(seen)}")
        return
    try:
        await world.proxy.wait_for(lambda: _sequence(world, spec), world.within(spec))
    except TimeoutError:
        how = "in one write" if spec.get("one_write") else "one after the other on one connection"
        raise Failed(
            f"wire: expected {[' '.join(words) for words in spec['sequence']]} {how}; see the transcript"
        ) from None


def _sequence(world: World, spec: dict[str, Any]) -> bool:
    wanted = [[world.fill(word) for word in words] for words in spec["sequence"]]
    by_connection: dict[int, list[Seen]] = {}
    for seen in world.proxy.seen:
        by_connection.setdefault(seen.connection, []).append(seen)
    for commands in by_connection.values():
        for start in range(len(commands) - len(wanted) + 1):
            window = commands[start : start + len(wanted)]
            if spec.get("one_write") and len({seen.write for seen in window}) > 1:
                continue
            if all(begins(seen.words, words) for seen, words in zip(window, wanted, strict=True)):
                return True
    return False


@step
async def transaction(world: World, spec: dict[str, Any]) -> None:
    """One MULTI … EXEC of the port that Redis executed holds all of these. {"holds": [[words]…], "or_script": its name}"""
    wanted = [[world.fill(word) for word in words] for words in spec["holds"]]

    def found() -> bool:
        if "or_script" in spec and any(runs(seen.words, spec["or_script"]) for seen in world.proxy.seen):
            return True
        return any(
            all(any(begins(seen.words, words) for seen in group) for words in wanted) for group in transactions(world)
        )

    try:
        await world.proxy.wait_for(found, world.within(spec))
    except TimeoutError:
        raise Failed(
            f"wire: expected one transaction with {[' '.join(words) for words in wanted]}; see the transcript"
        ) from None


def transactions(world: World) -> list[list[Seen]]:
    """The transactions that Redis executed: the commands between MULTI and EXEC."""
    done: list[list[Seen]] = []
    open_ones: dict[int, list[Seen]] = {}
    for seen in world.proxy.seen:
        name = seen.words[0].upper()
        if name == b"MULTI":
            open_ones[seen.connection] = []
        elif name == b"EXEC" and seen.connection in open_ones:
            group = open_ones.pop(seen.connection)
            if isinstance(seen.reply, list):
                done.append(group)
        elif seen.connection in open_ones:
            open_ones[seen.connection].append(seen)
    return done


@step
async def before(world: World, spec: dict[str, Any]) -> None:
    """Something was sent before something else was, the first time. {"first": [words], "then": [words], "since_mark"}"""
    await wire(world, {"count": {"of": spec["then"], "at_least": 1}, "since_mark": spec.get("since_mark", False)})
    since = spec.get("since_mark", False)
    first, then = commands_of(world, spec["first"], since), commands_of(world, spec["then"], since)
    order = world.proxy.seen
    if not first or order.index(first[0]) > order.index(then[0]):
        raise Failed(f"wire: expected {' '.join(spec['first'])} before {' '.join(spec['then'])}")


@step
async def mark(world: World, spec: dict[str, Any]) -> None:
    """From here on, for steps that say since_mark."""
    world.mark = len(world.proxy.seen)


@step
async def apart(world: World, spec: dict[str, Any]) -> None:
    """Two commands never go over the same connection. {"a": [words], "b": [words]}"""
    a, b = ({seen.connection for seen in commands_of(world, spec[side])} for side in ("a", "b"))
    if not a or not b or a & b:
        raise Failed(
            f"wire: expected {' '.join(spec['a'])} and {' '.join(spec['b'])} on connections of their own, got {a} and {b}"
        )


@step
async def each_renewed(world: World, spec: dict[str, Any]) -> None:
    """In front of every take that may block, in the same write, the lease is renewed."""
    last: dict[int, Seen] = {}
    takes = 0
    for seen in world.proxy.seen:
        if seen.words[0].upper() == b"BLMOVE":
            takes += 1
            previous = last.get(seen.connection)
            if (
                previous is None
                or previous.write != seen.write
                or not begins(previous.words, ["ZADD", world.key("leases")])
            ):
                raise Failed("wire: expected ZADD leases in front of every BLMOVE, in the same write; see the transcript")
        last[seen.connection] = seen
    if not takes:
        raise Failed("wire: expected a BLMOVE, got none")


@step
async def block_times(world: World, spec: dict[str, Any]) -> None:
    """Every block time is at least a millisecond and at most so long. {"of": command, "most_s"}"""
    blocked = commands_of(world, [spec["of"]])
    if not blocked and spec["of"] == "BLMOVE":
        raise Failed("wire: expected a BLMOVE, got none")
    for seen in blocked:
        seconds = float(seen.words[-1])
        if not 0.001 <= seconds <= spec["most_s"]:
            raise Failed(f"wire: expected a block time of 0.001 to {spec['most_s']} s, got {show(seen.words)}")


@step
async def connections(world: World, spec: dict[str, Any]) -> None:
    """So many connections were made in all. {"at_most"}"""
    made = len({seen.connection for seen in world.proxy.seen})
    if made > spec["at_most"]:
        raise Failed(f"wire: expected at most {spec['at_most']} connections, got {made}: it connects again and again")


@step
async def last(world: World, spec: dict[str, Any]) -> None:
    """Behind a command, none of these was sent. {"of": [words], "but_for": names}"""
    seen = commands_of(world, spec["of"])
    if not seen:
        raise Failed(f"wire: expected {' '.join(map(world.fill, spec['of']))}, got none")
    behind = world.proxy.seen[world.proxy.seen.index(seen[-1]) + 1 :]
    wrong = [show(other.words) for other in behind if other.words[0].decode().upper() in spec["but_for"]]
    if wrong:
        raise Failed(f"wire: expected nothing behind {' '.join(spec['of'])}, got {wrong}")


@step
async def only_keys(world: World, spec: dict[str, Any]) -> None:
    """Every key that the port named is one of the protocol's table, of this service."""
    prefix = world.key("").encode()
    name = rb"[A-Za-z0-9_-]{1,64}\.[A-Za-z0-9_-]{1,63}"
    known = re.compile(rb"requests|alive|leases|dead|attempts:[0-9a-f]{32}|(?:active|reply):" + name)
    for seen in world.proxy.seen:
        for word in seen.words[1:]:
            ours = word.startswith(world.namespace.encode() + b":")
            if ours and not (word.startswith(prefix) and known.fullmatch(word.removeprefix(prefix))):
                raise Failed(f"expected only keys of the table under {prefix.decode()}, got {show(seen.words)}")


@step
async def nothing_sent(world: World, spec: dict[str, Any]) -> None:
    """The port has pushed nothing."""
    pushed = [show(seen.words) for seen in world.proxy.seen if seen.words[0].upper() == b"RPUSH"]
    if pushed:
        raise Failed(f"expected nothing to be sent, got {pushed[0][:300]}")


@step
async def tokens_and_connections(world: World, spec: dict[str, Any]) -> None:
    """No two connections wait on the same reply list."""
    waits: dict[bytes, set[int]] = {}
    with contextlib.suppress(TimeoutError):
        await world.proxy.wait_for(lambda: commands_of(world, ["@wait"]), WAIT)
    for seen in world.proxy.seen:
        if seen.words[0].upper() in {b"BLPOP", b"BLMOVE", b"BRPOP"}:
            waits.setdefault(seen.words[1], set()).add(seen.connection)
    shared = {show(name): who for name, who in waits.items() if len(who) > 1}
    if not waits or shared:
        raise Failed(f"wire: expected a token for each connection that waits, got {shared or 'no wait'}")
