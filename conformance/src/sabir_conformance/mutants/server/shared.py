"""What mutants of the worker share: ways to have it read, answer and send something else."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Callable
from typing import Any

import orjson
from sabir import commands, errors, messages
from sabir.commands import Commands
from sabir.messages import Rejection, Request
from sabir.server import Lease, Server

from .. import Original, wrap
from ..both import sending

Read = Request | Rejection


def reading(change: Callable[[dict[str, Any]], None]) -> None:
    """Have the worker read another envelope than the one that came. What has no body, or is very large, stays."""

    @wrap(messages, "decode_request")
    def decode_request(original: Original[Read], data: bytes, *args: Any) -> Read:
        try:
            envelope = orjson.loads(data)
        except orjson.JSONDecodeError:
            return original(data, *args)
        if type(envelope) is not dict or type(envelope.get("body")) is not dict or len(data) > 100_000:
            return original(data, *args)
        change(envelope)
        return original(orjson.dumps(envelope), *args)


def judging(change: Callable[[Read, bytes], Read]) -> None:
    """Have the worker think otherwise of what it has read."""

    @wrap(messages, "decode_request")
    def decode_request(original: Original[Read], data: bytes, *args: Any) -> Read:
        return change(original(data, *args), data)


def leniently(parse: Callable[[bytes], Any]) -> None:
    """Have the worker read with another parser what the right one refuses."""

    @wrap(messages, "decode_request")
    def decode_request(original: Original[Read], data: bytes, *args: Any) -> Read:
        read = original(data, *args)
        if type(read) is Rejection and read.code == errors.ParseError.code:
            try:
                return original(orjson.dumps(parse(data)), *args)
            except (ValueError, TypeError, RecursionError):
                return read
        return read


def unlimited(limit: str) -> None:
    """Have the worker read what is over a limit."""

    @wrap(messages, "decode_request")
    def decode_request(original: Original[Read], data: bytes, limits: Any) -> Read:
        return original(data, dataclasses.replace(limits, **{limit: sys.maxsize}))


def answering(code: int, instead: int) -> None:
    """Have the worker give callers one error for another; dead letters stay as they are."""

    @wrap(messages, "encode_error")
    def encode_error(original: Original[bytes], id: str, worker: str, error: dict[str, Any], *args: Any) -> bytes:
        return original(id, worker, error | {"code": instead} if error["code"] == code else error, *args)


def burying(code: int, instead: int) -> None:
    """Have the worker write one error for another into dead letters."""

    @wrap(messages, "encode_dead_letter")
    def encode_dead_letter(original: Original[bytes], at: int, worker: str, error: dict[str, Any], element: bytes) -> bytes:
        return original(at, worker, error | {"code": instead} if error["code"] == code else error, element)


def carrying(script: str, *changes: tuple[str, str]) -> None:
    """Have the worker send another text of a script, by its own digest. Raises LookupError for what it does not hold once."""
    name = f"_{script.upper()}"
    text = commands._TEXTS[getattr(commands, name)]
    for old, new in changes:
        if text.count(old) != 1:
            raise LookupError(f"{script}.lua: expected once: {old}")
        text = text.replace(old, new)
    digest = hashlib.sha1(text.encode()).hexdigest()  # noqa: S324 - Redis's own
    commands._TEXTS[digest] = text
    setattr(commands, name, digest)


def beating(change: Callable[[Commands], Commands]) -> None:
    """Have the worker beat with the transaction of the profile core, or what ``change`` makes of it."""

    @wrap(Server, "_run_script")
    def run_script(original: Any, link: Any, cmds: Commands) -> Any:
        if cmds[0][1] != commands._HEARTBEAT:
            return original(link, cmds)
        _, _, _, _, leases, alive, _, worker, _ = cmds[0]
        renewed = ("ZADD", leases, str(link._clock.now_ms() + commands.LEASE_MS), worker)
        answers = link.run(
            change([("MULTI",), ("TIME",), renewed, ("SET", alive, "1", "PX", str(commands.LEASE_MS)), ("EXEC",)]), 5.0
        )
        clock = (answers[-1] if isinstance(answers[-1], list) else answers)[0]
        return [*map(int, clock), 0, 0, 0]


def judging_at_once(beat_ms: int = 300) -> None:
    """Have the worker recover from its second heartbeat on, and beat often: a case need not wait for SABIR-RECOVER-7."""
    Lease.judges = lambda self, now: True  # type: ignore[method-assign]
    commands.HEARTBEAT_MS = beat_ms  # type: ignore[misc]


def every_lrem(change: Callable[[bytes], bytes]) -> None:
    """Have the worker remove something else from its hand than what it took."""
    for step in ("replies", "bury", "acknowledge"):
        sending(step, lambda cmds: [(*c[:-1], change(c[-1])) if c[0] == "LREM" else c for c in cmds])
