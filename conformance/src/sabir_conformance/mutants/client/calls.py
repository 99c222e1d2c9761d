"""Mutants of the client: the life of a call, from its time-out to its reply."""

from __future__ import annotations

import json
import time
from typing import Any

import orjson
from sabir import client as shell
from sabir import errors, messages
from sabir.client import _Exchange
from sabir.messages import Response

from .. import Original, mutant, wrap
from ..both import first_wins, sending
from .shared import knowing, reading, waiting, writing


@mutant("SABIR-CALL-2", "client/time-outs/silence", "SABIR-CALL-6", "SABIR-TRANSPORT-1", "SABIR-REPLY-4")
def ends_late() -> None:
    """A wait blocks for 5 s, though less is left of the time-out."""
    sending("wait", lambda cmds: [(*cmds[0][:-1], "5")])
    shell._SILENCE = shell.MARGIN = 10.0  # type: ignore[misc, attr-defined]


@mutant("SABIR-CALL-2", "client/replies/prompt", "client/*", "vectors/*")
def looks_seldom() -> None:
    """A reply is looked at two seconds after it came."""

    @wrap(messages, "decode_reply")
    def decode_reply(original: Any, *args: Any) -> Any:
        time.sleep(2)
        return original(*args)


@mutant("SABIR-CALL-3", "client/requests/default-time-out")
def waits_ten_seconds() -> None:
    """A call without a time-out gets 10 s."""

    @wrap(shell, "seconds")
    def seconds(original: Original[float], timeout: float | None, default: float) -> float:
        return original(10.0 if timeout is None else timeout, default)


@mutant("SABIR-CALL-4", "client/time-outs/zero")
def takes_any_time_out() -> None:
    """A time-out that is no good is replaced by the default."""

    @wrap(shell, "seconds")
    def seconds(original: Original[float], timeout: float | None, default: float) -> float:
        try:
            return original(timeout, default)
        except (ValueError, TypeError):
            return default


@mutant("SABIR-CALL-5", "client/requests/deadline", "SABIR-CALL-3", "SABIR-TIME-1")
def sends_no_deadline() -> None:
    """A call has no deadline."""
    writing(lambda envelope: envelope.pop("deadline", None) and None if "reply_to" in envelope else None)


@mutant("SABIR-CALL-5", "client/requests/deadline", "SABIR-CALL-3", "SABIR-TIME-1")
def deadline_an_hour_late() -> None:
    """The deadline of a call is an hour too late."""
    writing(lambda envelope: envelope.update(deadline=envelope["deadline"] + 3_600_000) if "reply_to" in envelope else None)


@mutant("SABIR-CALL-6", "client/time-outs/silence", "SABIR-CALL-2", "SABIR-REPLY-4", "SABIR-LOST-*")
def calls_a_time_out_lost() -> None:
    """A call without a reply ends with ConnectionLost."""

    @wrap(shell, "no_reply")
    def no_reply(original: Any, *args: Any) -> Any:
        return errors.ConnectionLost("no reply")


@mutant("SABIR-CALL-7", "client/notifications/does-not-wait", "client/notifications/*")
def waits_for_notifications() -> None:
    """A notification waits a second and a half for an answer."""

    @wrap(_Exchange, "push")
    def push(original: Any, self: Any, *args: Any) -> Any:
        block = original(self, *args)
        if self._token is None:
            time.sleep(1.5)
        return block


@mutant("SABIR-REPLY-4", "client/replies/foreign-first", "vectors/replies/*", "SABIR-CALL-2", "SABIR-TOKEN-1")
def takes_any_reply() -> None:
    """The first reply that comes is the call's."""
    knowing()

    @wrap(messages, "decode_reply")
    def decode_reply(original: Original[Response | None], *args: Any) -> Response | None:
        reply = original(*args)
        if reply is not None and waiting.id is not None:
            reply.id = waiting.id
        return reply


@mutant("SABIR-REPLY-4", "client/replies/garbage-first", "vectors/replies/*", "SABIR-CALL-2")
def ends_with_garbage() -> None:
    """A reply in which no id can be read ends the call."""
    knowing()

    @wrap(messages, "decode_reply")
    def decode_reply(original: Original[Response | None], *args: Any) -> Response | None:
        reply = original(*args)
        if reply is None and waiting.id is not None:
            return Response(waiting.id, error=errors.InvalidReply("garbage"))
        return reply


@mutant("SABIR-REPLY-5", "vectors/replies/result-and-error-both")
def takes_both() -> None:
    """Of a result and an error, the result counts."""
    reading(lambda envelope: envelope["body"].pop("error", 0) if "result" in envelope["body"] else None)


@mutant("SABIR-REPLY-5", "vectors/replies/neither-result-nor-error")
def takes_neither_for_null() -> None:
    """A reply with neither a result nor an error is null."""
    reading(lambda envelope: envelope["body"].setdefault("result") if "error" not in envelope["body"] else None)


@mutant("SABIR-REPLY-5", "vectors/replies/v-is-2")
def takes_any_version_of_a_reply() -> None:
    """The version of a reply is not looked at."""
    reading(lambda envelope: envelope.update(v=1))


@mutant("SABIR-REPLY-5", "vectors/replies/body-id-is-another-id")
def takes_any_id_in_a_reply() -> None:
    """The id of a reply's body is not looked at."""
    reading(lambda envelope: envelope["body"].update(id=envelope.get("id")))


@mutant("SABIR-REPLY-5", "vectors/replies/worker-is-absent", "vectors/replies/worker-*")
def takes_a_reply_from_nobody() -> None:
    """The worker of a reply is not looked at."""
    reading(lambda envelope: envelope.update(worker="a.b"))


@mutant("SABIR-REPLY-6", "vectors/replies/unknown-members")
def refuses_replies_with_more() -> None:
    """A member that it does not know makes a reply invalid."""
    reading(lambda envelope: envelope.update(v=0) if envelope.keys() - {"v", "id", "worker", "body"} else None)


@mutant("SABIR-JSON-2", "vectors/replies/invalid-UTF-8")
def reads_replies_in_any_encoding() -> None:
    """Bytes that are no UTF-8 are replaced."""

    @wrap(messages, "decode_reply")
    def decode_reply(original: Original[Response | None], data: bytes, *args: Any) -> Response | None:
        return original(data.decode("utf-8", "replace").encode(), *args)


@mutant("SABIR-JSON-3", "vectors/replies/duplicate-result-the-last-counts")
def first_of_duplicates_in_a_reply() -> None:
    """The first of duplicate names wins."""

    @wrap(messages, "decode_reply")
    def decode_reply(original: Original[Response | None], data: bytes, *args: Any) -> Response | None:
        if original(data, *args) is None or len(data) > 10_000:
            return original(data, *args)
        return original(orjson.dumps(json.loads(data, object_pairs_hook=first_wins)), *args)
