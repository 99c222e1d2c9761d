"""What the steps of a case do. One function a step; a case is a list of them (schemas/case.schema.json has the forms)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from .proxy import Rule, Seen, begins, show
from .resp import RedisError
from .world import WAIT, Failed, Sent, World

Step = Callable[[World, Any], Awaitable[None]]
STEPS: Final[dict[str, Step]] = {}
QUIET: Final = 0.25
"""Seconds for which nothing must happen, where nothing must happen."""


def step(function: Step) -> Step:
    """Register a step under its function's name."""
    STEPS[function.__name__] = function
    return function


# ------------------------------------------------------------------------------------------------ the worker under test


@step
async def serve(world: World, spec: dict[str, Any]) -> None:
    """Start the worker. {"concurrency": how many handlers at once}"""
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
    world.calls["stop"] = task  # type: ignore[assignment]
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
async def reply(world: World, spec: dict[str, Any]) -> None:
    """Wait for the reply. {"to": label; result | code | code_in | any; "message_has"?; "data"; "within_s"}"""
    sent = world.requests[spec.get("to", "a")]
    assert sent.token is not None
    key = world.key(f"reply:{sent.token}")

    async def look() -> Any:
        return await world.connection.run("LPOP", key)

    raw = await world.poll(f"a reply to {spec.get('to', 'a')}", look, spec.get("within_s", WAIT))
    world.transcript.add("runner", "<", f"{key}: {show(raw)}")
    envelope = _strict_json(raw, "reply")
    world.check_schema("reply", envelope, "reply")
    body = envelope["body"]
    if (envelope["id"], body["id"]) != (sent.id, sent.id):
        raise Failed(f"reply: expected the id {sent.id} twice, got {envelope['id']} and {body['id']}")
    if world.worker and envelope["worker"] != world.worker:
        raise Failed(f"reply: expected worker {world.worker}, got {envelope['worker']}")
    expect_outcome(body, spec)


def expect_outcome(body: dict[str, Any], spec: dict[str, Any]) -> None:
    """Compare a JSON-RPC response with what a step expects."""
    got = f"result {show(json.dumps(body['result']).encode())}" if "result" in body else f"error {body['error']}"
    if "result" in spec:
        if "result" not in body or not same(body["result"], spec["result"]):
            raise Failed(f"reply: expected the result {json.dumps(spec['result'])[:300]}, got {got}")
    if "result_bytes" in spec and ("result" not in body or len(body["result"]) != spec["result_bytes"]):
        raise Failed(f"reply: expected a text of {spec['result_bytes']} bytes, got {got[:200]}")
    if "code" in spec and body.get("error", {}).get("code") != spec["code"]:
        raise Failed(f"reply: expected the error {spec['code']}, got {got}")
    if "code_in" in spec and "result" not in body and body["error"]["code"] not in spec["code_in"]:
        raise Failed(f"reply: expected a result or one of the errors {spec['code_in']}, got {got}")
    if "message" in spec and body["error"]["message"] != spec["message"]:
        raise Failed(f"reply: expected the message {spec['message']!r}, got {body['error']['message']!r}")
    if "data" in spec and ("data" not in body["error"] or not same(body["error"]["data"], spec["data"])):
        raise Failed(f"reply: expected the data {json.dumps(spec['data'])}, got {got}")
    if spec.get("no_data") and "data" in body["error"]:
        raise Failed(f"reply: expected an error without data, got {got}")
    for name, wanted in spec.get("result_has", {}).items():
        seen = body.get("result", {}).get(name)
        fits = wanted[0] <= seen <= wanted[1] if isinstance(wanted, list) and seen is not None else same(seen, wanted)
        if not fits:
            raise Failed(f"reply: expected {name} {wanted}, got {got}")
    for text in spec.get("nowhere", []):
        if text in json.dumps(body):
            raise Failed(f"reply: expected {text!r} nowhere in it, got {got}")


def _strict_json(raw: bytes, what: str) -> Any:
    """What a port has sent, read as RFC 8259 has it (SABIR-JSON-1); Python's parser lets more pass."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError(f"a name twice among {[name for name, _ in pairs]}")
        return found

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        text = raw.decode("utf-8")
        value = json.loads(text, object_pairs_hook=members, parse_constant=refuse)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise Failed(f"{what}: expected strict JSON, got {error}: {show(raw)}") from None
    return value


def same(a: Any, b: Any) -> bool:
    """Equal as JSON: 1 and 1.0 are one number, true and 1 are not."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b
    return type(a) is type(b) and bool(a == b)


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


@step
async def dead(world: World, spec: dict[str, Any]) -> None:
    """A dead letter of the request is there. {"of": label, "code"; "count": of all dead letters}"""
    sent = world.requests[spec.get("of", "a")]
    key = world.key("dead")

    async def look() -> Any:
        for raw in reversed(await world.connection.run("LRANGE", key, "-50", "-1")):
            letter = _strict_json(raw, "dead letter")
            world.check_schema("dead-letter", letter, "dead letter")
            element = letter["element"].encode() if "element" in letter else base64.b64decode(letter["element_base64"])
            if element == sent.element:
                return letter
        return None

    letter = await world.poll(f"a dead letter of {spec.get('of', 'a')}", look, spec.get("within_s", WAIT))
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
    """A handler was started. {"method", "times": at least, and exactly after a pause if "exactly"}"""
    times = spec.get("times", 1)
    matches = _is_invocation(world, spec)
    if not await world.driver.event(matches, spec.get("within_s", WAIT), times):
        raise Failed(
            f"expected {times} invocations of {spec.get('method', 'any method')}, got {sum(map(matches, world.driver.events))}"
        )
    if spec.get("exactly"):
        await asyncio.sleep(QUIET)
        got = sum(map(matches, world.driver.events))
        if got != times:
            raise Failed(f"expected exactly {times} invocations of {spec.get('method', 'any method')}, got {got}")


@step
async def not_invoked(world: World, spec: dict[str, Any]) -> None:
    """No handler was started. {"method"}"""
    got = sum(map(_is_invocation(world, spec), world.driver.events))
    if got:
        raise Failed(f"expected no invocation of {spec.get('method', 'any method')}, got {got}")


# ------------------------------------------------------------------------------------------------ Redis


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
        return (
            spec.get("exists", kind != "none") == (kind != "none")
            and spec.get("type", kind) == kind
            and spec.get("length", length) == length
            and least <= ttl <= most
        )

    try:
        await world.poll(name, look, spec.get("within_s", WAIT))
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


# ------------------------------------------------------------------------------------------------ what the proxy saw


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
            return rule.get("is", n) == n and rule.get("at_least", n) <= n <= rule.get("at_most", n)

        if "at_least" in rule:
            try:
                await world.proxy.wait_for(right, spec.get("within_s", WAIT))
            except TimeoutError:
                pass
        if not right():
            raise Failed(f"wire: expected {rule}, got {len(commands_of(world, rule['of']))}")
        return
    try:
        await world.proxy.wait_for(lambda: _sequence(world, spec), spec.get("within_s", WAIT))
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
    """One MULTI … EXEC of the port that Redis executed holds all of these. {"holds": [[words]…]}"""
    wanted = [[world.fill(word) for word in words] for words in spec["holds"]]

    def found() -> bool:
        return any(
            all(any(begins(seen.words, words) for seen in group) for words in wanted) for group in transactions(world)
        )

    try:
        await world.proxy.wait_for(found, spec.get("within_s", WAIT))
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
    known = re.compile(rb"requests|alive|leases|dead|(?:active|reply):" + name)
    for seen in world.proxy.seen:
        for word in seen.words[1:]:
            ours = word.startswith(world.namespace.encode() + b":")
            if ours and not (word.startswith(prefix) and known.fullmatch(word.removeprefix(prefix))):
                raise Failed(f"expected only keys of the table under {prefix.decode()}, got {show(seen.words)}")


# ------------------------------------------------------------------------------------------------ faults


@step
async def rule(world: World, spec: dict[str, Any]) -> None:
    """Have the proxy do something when it sees a command. {"as", "on": [words], "do", "nth", "reply", "behind": [words]}"""
    behind = [world.fill(word) for word in spec["behind"]] if "behind" in spec else None
    made = Rule(
        [world.fill(word) for word in spec["on"]], spec["do"], spec.get("nth", 1), spec.get("reply", "").encode(), behind
    )
    world.proxy.rules.append(made)
    world.rules[spec.get("as", "rule")] = made


@step
async def fired(world: World, spec: dict[str, Any]) -> None:
    """Wait until a rule has fired. {"rule": label, "within_s"}"""
    label = spec.get("rule", "rule")
    try:
        async with asyncio.timeout(spec.get("within_s", WAIT)):
            await world.rules[label].fired.wait()
    except TimeoutError:
        raise Failed(f"expected {world.rules[label].on} within {spec.get('within_s', WAIT):g} s; it was not sent") from None


@step
async def let_go(world: World, spec: dict[str, Any]) -> None:
    """Let a command go that a rule holds. {"rule": label}"""
    world.rules[spec.get("rule", "rule")].go.set()


@step
async def drop_rules(world: World, spec: dict[str, Any]) -> None:
    """From here on the proxy only passes on."""
    for made in world.proxy.rules:
        made.go.set()
    world.proxy.rules.clear()


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


# ------------------------------------------------------------------------------------------------ more of the worker


@step
async def push_same_token(world: World, spec: dict[str, Any]) -> None:
    """Push a call whose replies go where another's went. {"as", "token_of": label, method, params}"""
    token = world.requests[spec["token_of"]].token
    await push(world, {**spec, "envelope": {"reply_to": token}})
    world.requests[spec["as"]].token = token


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
async def invoked_in_order(world: World, spec: list[str]) -> None:
    """Handlers were started in this order."""
    matches = _is_invocation(world, {})
    await world.driver.event(matches, WAIT, len(spec))
    got = [event["method"] for event in world.driver.events if matches(event)]
    if got != spec:
        raise Failed(f"expected the invocations {spec}, got {got}")


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
    _long_enough("worker", world.worker, spec["digits"])


def _long_enough(what: str, name: str, digits: int) -> None:
    random_part = name.partition(".")[2]
    least = digits if set(random_part) <= set("0123456789abcdef") else 11  # 11 characters of the grammar's 64 hold 64 bits
    if len(random_part) < least:
        raise Failed(f"{what}: expected at least 64 random bits, got {random_part!r}")


@step
async def stderr_lacks(world: World, spec: dict[str, Any]) -> None:
    """Nothing of the driver's stderr holds a text. {"text"}"""
    lines = [line for line in world.driver.stderr if spec["text"] in line]
    if lines:
        raise Failed(f"log: expected no payload, got {lines[0][:300]!r}")


# ------------------------------------------------------------------------------------------------ the client under test


@step
async def call(world: World, spec: dict[str, Any]) -> None:
    """Have the port call. {"as", "method", "params" | "params_text", "timeout_ms", "idempotent", "many": [[method, params]…]}"""
    label = spec.get("as", "c")
    await _ask_client(world, label, "many" if "many" in spec else "call", spec)


@step
async def notify(world: World, spec: dict[str, Any]) -> None:
    """Have the port notify. {"as", "method", "params", "expires_ms"}"""
    await _ask_client(world, spec.get("as", "c"), "notify", spec)


async def _ask_client(world: World, label: str, command: str, spec: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {
        "url": world.url,
        "namespace": spec.get("namespace", world.namespace),
        "service": spec.get("service", world.service),
        "name": spec.get("name", world.client_name),
    }
    for name in ("method", "timeout_ms", "idempotent", "expires_ms", "value"):
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

    raw = await world.poll("a request in the queue", look, spec.get("within_s", WAIT))
    world.transcript.add("runner", "<", f"requests: {show(raw)}")
    envelope = _strict_json(raw, "request")
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
        for wanted, got in zip(spec["many"], answer.get("outcomes", []), strict=True):
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
async def nothing_sent(world: World, spec: dict[str, Any]) -> None:
    """The port has pushed nothing."""
    pushed = [show(seen.words) for seen in world.proxy.seen if seen.words[0].upper() == b"RPUSH"]
    if pushed:
        raise Failed(f"expected nothing to be sent, got {pushed[0][:300]}")


@step
async def answer_param(world: World, spec: dict[str, Any]) -> None:
    """As a worker, answer a call with its own first parameter. {"to": label}"""
    label = spec["to"]
    await answer(world, {"to": label, "result": world.requests[label].envelope["body"]["params"][0]})


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
    _long_enough("token", got, spec["digits"])


@step
async def tokens_and_connections(world: World, spec: dict[str, Any]) -> None:
    """No two connections wait on the same reply list."""
    waits: dict[bytes, set[int]] = {}
    with contextlib.suppress(TimeoutError):
        await world.proxy.wait_for(lambda: commands_of(world, ["BLPOP"]), WAIT)
    for seen in world.proxy.seen:
        if seen.words[0].upper() in {b"BLPOP", b"BLMOVE", b"BRPOP"}:
            waits.setdefault(seen.words[1], set()).add(seen.connection)
    shared = {show(name): who for name, who in waits.items() if len(who) > 1}
    if not waits or shared:
        raise Failed(f"wire: expected a token for each connection that waits, got {shared or 'no wait'}")


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


__all__ = ["STEPS", "RedisError", "same"]
