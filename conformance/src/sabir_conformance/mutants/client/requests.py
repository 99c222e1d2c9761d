"""Mutants of the client: what it sends."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from sabir import client as shell
from sabir import messages

from .. import Original, mutant, substitute, wrap
from ..both import sending
from .shared import writing


@mutant("SABIR-ENVELOPE-1", "client/notifications/notification", "client/notifications/*")
def gives_notifications_a_body_id() -> None:
    """A notification has a body id."""
    writing(lambda envelope: envelope["body"].update(id=envelope["id"]))


@mutant("SABIR-ENVELOPE-1", "client/requests/idempotent", "client/service/*")
def says_idempotent_with_a_number() -> None:
    """idempotent is written as 1."""
    writing(lambda envelope: envelope.update(idempotent=1) if "idempotent" in envelope else None)


@mutant("SABIR-ENVELOPE-1", "client/notifications/expires")
def writes_a_deadline_as_a_fraction() -> None:
    """A notification's deadline is written as a fraction."""
    writing(lambda e: e.update(deadline=e["deadline"] + 0.5) if "reply_to" not in e and "deadline" in e else None)


@mutant("SABIR-ENVELOPE-2", "client/requests/random-ids")
def counts_its_ids() -> None:
    """Ids are counted."""
    counter = iter(range(1, 1 << 60))
    substitute(shell.new_id, lambda: f"{next(counter):032x}")


@mutant("SABIR-ENVELOPE-2", "client/requests/different-ids", "SABIR-*")
def one_id_for_all() -> None:
    """Every request has the same id."""
    substitute(shell.new_id, lambda: "5f0c2b7e9a1d4c3f8e6b0a9d7c5e3f12")


@mutant("SABIR-ENVELOPE-5", "client/requests/head-first")
def writes_the_body_first() -> None:
    """The body is the first member of the envelope."""
    writing(lambda envelope: {"body": envelope.pop("body"), **envelope})


@mutant("SABIR-JSON-1", "client/refusals/value-nan")
def sends_null_for_nan() -> None:
    """NaN is sent as null."""

    @wrap(messages, "_finite")
    def finite(original: Original[bool], value: Any) -> bool:
        return True


def _dumping(default: Callable[[Any], Any]) -> None:
    @wrap(messages, "to_json")
    def to_json(original: Original[bytes], value: Any, *args: Any) -> bytes:
        try:
            return original(value, *args)
        except (TypeError, ValueError):
            _, _, head, tail, *_ = args
            data: bytes = json.dumps(value, default=default, separators=(",", ":")).encode()
            return bytes(head.encode() + data + tail)


@mutant("SABIR-JSON-1", "client/refusals/value-set", "client/refusals/value-*")
def sends_a_text_for_a_set() -> None:
    """What JSON does not have is sent as text."""
    _dumping(str)


@mutant("SABIR-JSON-1", "client/refusals/value-surrogate", "client/refusals/value-*")
def sends_surrogates() -> None:
    """A lone surrogate is sent as an escape."""

    def refuse(value: Any) -> Any:
        raise TypeError("no JSON")

    _dumping(refuse)


@mutant("SABIR-JSON-1", "client/requests/unicode")
def sends_a_byte_order_mark() -> None:
    """A request with text beyond ASCII begins with a byte order mark."""

    @wrap(messages, "encode_request")
    def encode_request(original: Original[bytes], *args: Any, **kwargs: Any) -> bytes:
        data = original(*args, **kwargs)
        return data if data.isascii() else b"\xef\xbb\xbf" + data


@mutant("SABIR-JSON-1", "client/requests/numbers")
def sends_a_name_twice() -> None:
    """A request with a list in its parameters has the member v twice."""

    @wrap(messages, "encode_request")
    def encode_request(original: Original[bytes], *args: Any, **kwargs: Any) -> bytes:
        data = original(*args, **kwargs)
        return data.replace(b'{"v":1,', b'{"v":1,"v":1,', 1) if b'"params":[[0' in data else data


@mutant("SABIR-LIMIT-1", "client/refusals/too-large")
def sends_what_is_too_large_itself() -> None:
    """The size of a request is not looked at."""

    @wrap(messages, "over_limit")
    def over_limit(original: Original[str | None], data: bytes, limits: Any, *depth: Any) -> str | None:
        return original(b"" if len(data) > limits.max_bytes else data, limits, *depth)


@mutant("SABIR-LIMIT-1", "client/refusals/too-deep")
def sends_what_is_too_deep() -> None:
    """The depth of a request is not looked at."""

    @wrap(messages, "over_limit")
    def over_limit(original: Original[str | None], data: bytes, limits: Any, *depth: Any) -> str | None:
        return original(data, limits) if len(data) > limits.max_bytes else None


@mutant("SABIR-CALL-1", "client/many/one-push", "client/many/*", "client/waiting/*-many")
def sends_a_batch() -> None:
    """Many calls are one element, as a batch of JSON-RPC."""
    sending("push", lambda cmds: [(*cmds[0][:2], b"[" + b",".join(cmds[0][2:]) + b"]") if len(cmds[0]) > 3 else cmds[0]])


@mutant(
    "SABIR-CALL-1",
    "client/requests/one-element",
    "SABIR-ENVELOPE-2",
    "SABIR-TOKEN-1",
    "SABIR-LOST-*",
    "SABIR-CALL-*",
    "SABIR-REPLY-4",
    "SABIR-ALIVE-*",
    "SABIR-QUEUE-1",
)
def pushes_twice() -> None:
    """Each request is pushed twice."""
    sending("push", lambda cmds: [(*cmds[0], cmds[0][-1])])
