"""What mutants of the client share: ways to have it write, read and send something else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import orjson
from sabir import keys, messages
from sabir.client import _Exchange
from sabir.messages import Response

from .. import Original, wrap

waiting = threading.local()
"""What the calling thread waits for: ``waiting.id``, set by knowing()."""


def knowing() -> None:
    """Keep the id of the call that a thread waits for; None while it waits for several."""

    @wrap(_Exchange, "collect")
    def collect(original: Any, self: Any, *args: Any) -> Any:
        waiting.id = next(iter(self.missing)) if len(self.missing) == 1 else None
        try:
            return original(self, *args)
        finally:
            waiting.id = None


def reading(change: Callable[[dict[str, Any]], None]) -> None:
    """Have the client read another reply than the one that came."""

    @wrap(messages, "decode_reply")
    def decode_reply(original: Original[Response | None], data: bytes, *args: Any) -> Response | None:
        try:
            envelope = orjson.loads(data)
        except orjson.JSONDecodeError:
            return original(data, *args)
        if type(envelope) is not dict or type(envelope.get("body")) is not dict:
            return original(data, *args)
        change(envelope)
        return original(orjson.dumps(envelope), *args)


def writing(change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Have the client write another envelope: what ``change`` returns, or has made of it."""

    @wrap(messages, "encode_request")
    def encode_request(original: Original[bytes], *args: Any, **kwargs: Any) -> bytes:
        data = original(*args, **kwargs)
        if len(data) > 100_000:
            return data
        envelope = orjson.loads(data)
        changed = change(envelope)
        return orjson.dumps(envelope if changed is None else changed)


def checking(kind: str) -> None:
    """Have the client take any name of a kind."""

    @wrap(keys, "check")
    def check(original: Original[str], what: str, name: Any) -> str:
        return name if what == kind else original(what, name)
