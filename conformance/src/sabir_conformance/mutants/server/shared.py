"""What mutants of the worker share: ways to have it read, answer and send something else."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import orjson
from sabir import errors, messages
from sabir.messages import Rejection, Request

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


def every_lrem(change: Callable[[bytes], bytes]) -> None:
    """Have the worker remove something else from its hand than what it took."""
    for step in ("replies", "bury", "acknowledge"):
        sending(step, lambda cmds: [(*c[:-1], change(c[-1])) if c[0] == "LREM" else c for c in cmds])
