"""Mutants of the client."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import orjson
from sabir import _link, commands, errors, keys, messages
from sabir import client as shell
from sabir.client import Client, Plan
from sabir.messages import Response

from . import mutant, substitute, wrap
from .server import first_wins

waiting = threading.local()
"""What the calling thread waits for: ``waiting.id``, set by knowing()."""


def knowing() -> None:
    """Keep the id of the call that a thread waits for; None while it waits for several."""

    @wrap(Client, "_collect")
    def collect(original: Any, self: Any, line: Any, place: Any, plan: Plan, *args: Any) -> Any:
        waiting.id = plan.ids[0] if len(plan.ids) == 1 else None
        try:
            return original(self, line, place, plan, *args)
        finally:
            waiting.id = None


def reading(change: Callable[[dict[str, Any]], None]) -> None:
    """Have the client read another reply than the one that came."""

    @wrap(messages, "decode_reply")
    def decode_reply(original: Any, data: bytes, *args: Any) -> Response | None:
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
    def encode_request(original: Any, *args: Any, **kwargs: Any) -> bytes:
        data = original(*args, **kwargs)
        if len(data) > 100_000:
            return data
        envelope = orjson.loads(data)
        changed = change(envelope)
        return orjson.dumps(envelope if changed is None else changed)


def sending(step: str, change: Callable[[list[Any]], list[Any]]) -> None:
    """Have the client send other commands for a step."""

    @wrap(commands, step)
    def send(original: Any, *args: Any, **kwargs: Any) -> list[Any]:
        return change(original(*args, **kwargs))


def checking(kind: str) -> None:
    """Have the client take any name of a kind."""

    @wrap(keys, "check")
    def check(original: Any, what: str, name: Any) -> str:
        return name if what == kind else original(what, name)


# ------------------------------------------------------------------------------------------------ transport, keys, names


@mutant("SABIR-TRANSPORT-1", "client/requests/block-time", "SABIR-CALL-2", "SABIR-CALL-6")
def waits_for_ever() -> None:
    """A wait blocks without an end."""
    sending("wait", lambda cmds: [(*cmds[0][:-1], "0")])


@mutant("SABIR-TRANSPORT-1", "client/requests/block-time-of-a-short-call")
def waits_for_less_than_a_millisecond() -> None:
    """What is left of a time-out becomes a block time, however little it is."""

    @wrap(commands, "wait")
    def wait(original: Any, place: Any, token: str, block_ms: float) -> list[Any]:
        return [("BLPOP", place.reply(token), "0.0005")] if block_ms <= 1 else original(place, token, block_ms)


@mutant("SABIR-TRANSPORT-2", "client/trouble/wait-silence", "SABIR-CALL-2", "SABIR-LOST-1")
def waits_on_silence_for_ever() -> None:
    """An answer is awaited for ever."""

    @wrap(_link.Link, "_patience")
    def patience(original: Any, self: Any, timeout: float) -> None:
        original(self, 3600.0)


@mutant("SABIR-KEY-1", "client/requests/only-its-keys")
def waits_on_a_second_key() -> None:
    """A wait is for two keys, of which one is not in the table."""
    sending("wait", lambda cmds: [(cmds[0][0], cmds[0][1] + ":control", *cmds[0][1:])])


@mutant("SABIR-KEY-2", "client/refusals/service-dot")
def takes_any_service() -> None:
    """A service may have any name."""
    checking("service")


@mutant("SABIR-KEY-2", "client/refusals/namespace-brace")
def takes_any_namespace() -> None:
    """A namespace may have any name."""
    checking("namespace")


@mutant("SABIR-KEY-2", "client/refusals/method-space", "client/refusals/many-with-a-bad-one")
def takes_any_method() -> None:
    """A method may have any name."""
    checking("method")


@mutant("SABIR-KEY-2", "client/refusals/name-dot")
def takes_any_client_name() -> None:
    """A client may have any name."""
    checking("client")

    @wrap(keys.Keys, "reply")
    def reply(original: Any, self: Any, token: str) -> str:
        return self.requests.removesuffix("requests") + "reply:" + token


@mutant("SABIR-TOKEN-1", "client/requests/token-for-each-connection", "SABIR-REPLY-4", "SABIR-CALL-*", "SABIR-ENVELOPE-2")
def one_token_for_all() -> None:
    """All connections of a client wait on one token."""
    made: dict[str, str] = {}

    @wrap(shell, "new_token")
    def new_token(original: Any, name: str) -> str:
        return made.setdefault(name, original(name))


@mutant("SABIR-TOKEN-1", "client/requests/token")
def token_of_32_bits() -> None:
    """A token has 32 random bits."""

    @wrap(shell, "new_token")
    def new_token(original: Any, name: str) -> str:
        return original(name)[:-8]


# ------------------------------------------------------------------------------------------------ what it sends


@mutant("SABIR-ENVELOPE-1", "client/notifications/notification", "client/notifications/*")
def gives_notifications_a_body_id() -> None:
    """A notification has a body id."""
    writing(lambda envelope: envelope["body"].update(id=envelope["id"]))


@mutant("SABIR-ENVELOPE-1", "client/requests/idempotent")
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
    def finite(original: Any, value: Any) -> bool:
        return True


def _dumping(default: Callable[[Any], Any]) -> None:
    @wrap(messages, "to_json")
    def to_json(original: Any, value: Any, *args: Any) -> bytes:
        try:
            return original(value, *args)
        except (TypeError, ValueError):
            return json.dumps(value, default=default, separators=(",", ":")).encode()


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
    def encode_request(original: Any, *args: Any, **kwargs: Any) -> bytes:
        data = original(*args, **kwargs)
        return data if data.isascii() else b"\xef\xbb\xbf" + data


@mutant("SABIR-JSON-1", "client/requests/numbers")
def sends_a_name_twice() -> None:
    """A request with a list in its parameters has the member v twice."""

    @wrap(messages, "encode_request")
    def encode_request(original: Any, *args: Any, **kwargs: Any) -> bytes:
        data = original(*args, **kwargs)
        return data.replace(b'{"v":1,', b'{"v":1,"v":1,', 1) if b'"params":[[0' in data else data


@mutant("SABIR-LIMIT-1", "client/refusals/too-large")
def sends_what_is_too_large_itself() -> None:
    """The size of a request is not looked at."""

    @wrap(messages, "over_limit")
    def over_limit(original: Any, data: bytes, limits: Any) -> str | None:
        return original(b"" if len(data) > limits.max_bytes else data, limits)


@mutant("SABIR-LIMIT-1", "client/refusals/too-deep")
def sends_what_is_too_deep() -> None:
    """The depth of a request is not looked at."""

    @wrap(messages, "over_limit")
    def over_limit(original: Any, data: bytes, limits: Any) -> str | None:
        return original(data, limits) if len(data) > limits.max_bytes else None


@mutant("SABIR-CALL-1", "client/many/one-push", "client/many/*")
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
)
def pushes_twice() -> None:
    """Each request is pushed twice."""
    sending("push", lambda cmds: [(*cmds[0], cmds[0][-1])])


# ------------------------------------------------------------------------------------------------ the life of a call


@mutant("SABIR-CALL-2", "client/time-outs/silence", "SABIR-CALL-6", "SABIR-TRANSPORT-1", "SABIR-REPLY-4")
def ends_late() -> None:
    """A wait blocks for 5 s, though less is left of the time-out."""

    @wrap(Client, "_block")
    def block(original: Any, left: float) -> float:
        return 5.0

    shell._SILENCE = 10.0  # type: ignore[misc]


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
    def seconds(original: Any, timeout: float | None, default: float) -> float:
        return original(10.0 if timeout is None else timeout, default)


@mutant("SABIR-CALL-4", "client/time-outs/zero")
def takes_any_time_out() -> None:
    """A time-out that is no good is replaced by the default."""

    @wrap(shell, "seconds")
    def seconds(original: Any, timeout: float | None, default: float) -> float:
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

    @wrap(Client, "_push")
    def push(original: Any, self: Any, line: Any, *args: Any, waits: bool) -> Any:
        block = original(self, line, *args, waits=True)
        if not waits:
            try:
                line.link.read(1.5)
            except _link.LinkLost:
                pass
        return block


@mutant("SABIR-REPLY-4", "client/replies/foreign-first", "vectors/replies/*", "SABIR-CALL-2", "SABIR-TOKEN-1")
def takes_any_reply() -> None:
    """The first reply that comes is the call's."""
    knowing()

    @wrap(messages, "decode_reply")
    def decode_reply(original: Any, *args: Any) -> Response | None:
        reply = original(*args)
        if reply is not None and waiting.id is not None:
            reply.id = waiting.id
        return reply


@mutant("SABIR-REPLY-4", "client/replies/garbage-first", "vectors/replies/*", "SABIR-CALL-2")
def ends_with_garbage() -> None:
    """A reply in which no id can be read ends the call."""
    knowing()

    @wrap(messages, "decode_reply")
    def decode_reply(original: Any, *args: Any) -> Response | None:
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
    def decode_reply(original: Any, data: bytes, *args: Any) -> Response | None:
        return original(data.decode("utf-8", "replace").encode(), *args)


@mutant("SABIR-JSON-3", "vectors/replies/duplicate-result-the-last-counts")
def first_of_duplicates_in_a_reply() -> None:
    """The first of duplicate names wins."""

    @wrap(messages, "decode_reply")
    def decode_reply(original: Any, data: bytes, *args: Any) -> Response | None:
        if original(data, *args) is None or len(data) > 10_000:
            return original(data, *args)
        return original(orjson.dumps(json.loads(data, object_pairs_hook=first_wins)), *args)


# ------------------------------------------------------------------------------------------------ errors, time


def raising(change: Callable[..., Any]) -> None:
    """Have the client make another error of what a reply says: of code, message, data and the application's classes."""

    @wrap(errors, "from_wire")
    def from_wire(original: Any, code: int, message: str, data: Any, own: Any) -> Any:
        return change(original, code, message, data, own)


@mutant("SABIR-ERROR-4", "vectors/replies/MethodNotFound")
def raises_the_base_class() -> None:
    """Every error of the table is the base class."""
    raising(
        lambda make, code, *rest: errors.SabirError(rest[0], code, rest[1]) if code in errors.TABLE else make(code, *rest)
    )


@mutant("SABIR-ERROR-4", "vectors/replies/application-error", "client/replies/error", "SABIR-ERROR-5")
def raises_the_base_class_for_the_application_s() -> None:
    """An application error is the base class."""
    raising(
        lambda make, code, *rest: (
            make(code, *rest) if code in errors.RESERVED else errors.SabirError(rest[0], code, rest[1])
        )
    )


@mutant("SABIR-ERROR-4", "vectors/replies/unknown-code-of-the-reserved-range")
def takes_unknown_codes_for_the_application_s() -> None:
    """A code of the reserved range that it does not know is an application error."""
    raising(
        lambda make, code, *rest: (
            errors.ApplicationError(rest[0], code, rest[1])
            if code in errors.RESERVED and code not in errors.TABLE
            else make(code, *rest)
        )
    )


@mutant("SABIR-ERROR-5", "client/replies/error", "SABIR-ERROR-4")
def loses_the_data() -> None:
    """The data of an error is lost."""
    raising(lambda make, code, message, data, own: make(code, message, errors.MISSING, own))


@mutant("SABIR-ERROR-5", "client/replies/error", "SABIR-ERROR-4")
def decorates_the_message() -> None:
    """The message of an error gets the code in front."""
    raising(lambda make, code, message, data, own: make(code, f"{code}: {message}", data, own))


@mutant("SABIR-TIME-1", "client/requests/clock-ahead")
def calls_on_its_own_clock() -> None:
    """The machine's clock is used, not Redis's."""

    @wrap(_link.Clock, "now_ms")
    def now_ms(original: Any, self: Any) -> int:
        return int(time.time() * 1000)


@mutant("SABIR-TIME-2", "client/requests/asks-the-clock")
def asks_the_clock_after_the_first_call() -> None:
    """TIME is not asked when connecting: the machine's clock has to do."""

    @wrap(_link.Link, "run")
    def run(original: Any, self: Any, cmds: Any, timeout: float) -> list[Any]:
        if cmds[0] == ("TIME",):
            now = time.time()
            return [[str(int(now)).encode(), b"0"], *original(self, cmds[1:], timeout)] if cmds[1:] else [[b"1", b"0"]]
        return original(self, cmds, timeout)


# ------------------------------------------------------------------------------------------------ lost connections


@mutant("SABIR-LOST-1", "client/trouble/push-cut-after", "SABIR-LOST-2", "SABIR-CALL-2")
def pushes_again() -> None:
    """A push without an answer is sent again."""

    @wrap(Client, "_push")
    def push(original: Any, self: Any, line: Any, place: Any, elements: Any, ends: float, **kwargs: Any) -> Any:
        try:
            return original(self, line, place, elements, ends, **kwargs)
        except errors.ConnectionLost:
            self._connected(line, ends)
            return original(self, line, place, elements, ends, **kwargs)


@mutant("SABIR-LOST-2", "client/trouble/wait-cut", "SABIR-LOST-1", "SABIR-TOKEN-1", "SABIR-CALL-2")
def does_not_connect_again() -> None:
    """A connection that is lost while a call waits ends the call."""
    state = threading.local()

    @wrap(Client, "_collect")
    def collect(original: Any, *args: Any) -> Any:
        state.waits = True
        try:
            return original(*args)
        finally:
            state.waits = False

    @wrap(_link.Link, "open")
    def open_link(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        if getattr(state, "waits", False):
            raise errors.ConnectionLost("lost")
        original(self, *args, **kwargs)


@mutant("SABIR-LOST-5", "client/trouble/push-refused-oom", "SABIR-CALL-2", "SABIR-TRANSPORT-2")
def calls_a_refusal_lost() -> None:
    """A push that Redis refused ends with ConnectionLost."""
    errors.NotQueued = errors.ConnectionLost  # type: ignore[misc, assignment]


@mutant("SABIR-LOST-5", "client/trouble/never-there", "SABIR-CALL-2")
def calls_a_redis_that_is_away_a_time_out() -> None:
    """A time-out before anything could be sent ends with CallTimeout."""

    @wrap(Client, "_connected")
    def connected(original: Any, *args: Any) -> None:
        try:
            original(*args)
        except errors.NotQueued as error:
            raise errors.CallTimeout(str(error)) from error


@mutant("SABIR-SECURITY-1", "client/requests/payload-not-logged")
def logs_requests() -> None:
    """Every request is logged."""

    @wrap(commands, "push")
    def push(original: Any, place: Any, elements: Any) -> Any:
        logging.getLogger("sabir").warning("pushing %s", elements)
        return original(place, elements)
