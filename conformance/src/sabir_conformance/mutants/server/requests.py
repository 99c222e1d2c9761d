"""Mutants of the worker: how it reads requests, and which it runs."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import orjson
from sabir import errors, keys, messages
from sabir.dispatch import Dispatcher, Job, Methods, Settled, Signature
from sabir.messages import Rejection, Request

from .. import Original, mutant, wrap
from ..both import first_wins
from .shared import Read, answering, judging, leniently, reading, unlimited


def _unknown(envelope: dict[str, Any]) -> set[str]:
    return envelope.keys() - {"v", "id", "reply_to", "deadline", "idempotent", "traceparent", "body"}


@mutant("SABIR-ENVELOPE-3", "vectors/requests/unknown-member-in-the-envelope")
def refuses_unknown_members() -> None:
    """A member of the envelope that it does not know makes a request invalid."""
    reading(lambda envelope: envelope.update(idempotent=None) if _unknown(envelope) else None)


@mutant("SABIR-ENVELOPE-3", "vectors/requests/unknown-member-in-the-body")
def refuses_unknown_members_of_the_body() -> None:
    """A member of the body that it does not know makes a request invalid."""

    def change(envelope: dict[str, Any]) -> None:
        if envelope["body"].keys() - {"jsonrpc", "id", "method", "params"}:
            envelope["body"]["jsonrpc"] = "?"

    reading(change)


@mutant("SABIR-ENVELOPE-4", "vectors/requests/v-is-2")
def calls_a_later_version_invalid() -> None:
    """A version that it does not know is InvalidRequest."""
    answering(errors.UnsupportedVersion.code, errors.InvalidRequest.code)


@mutant("SABIR-ENVELOPE-4", "vectors/requests/v-is-2-and-the-rest-is-unknown")
def reads_on_in_a_later_version() -> None:
    """The rest of an element of a later version has to be valid."""

    def change(read: Read, data: bytes) -> Read:
        if type(read) is Rejection and read.code == errors.UnsupportedVersion.code and read.reply_to:
            envelope = orjson.loads(data)
            if type(envelope.get("body")) is not dict or _unknown(envelope):
                return dataclasses.replace(read, code=errors.InvalidRequest.code)
        return read

    judging(change)


@mutant("SABIR-BODY-1", "vectors/requests/jsonrpc-is-1-0")
def takes_any_jsonrpc() -> None:
    """jsonrpc is not looked at."""
    reading(lambda envelope: envelope["body"].update(jsonrpc="2.0"))


@mutant("SABIR-BODY-1", "vectors/requests/body-id-is-another-id")
def takes_any_body_id() -> None:
    """The id of a call's body is not looked at."""
    reading(lambda envelope: envelope["body"].update(id=envelope.get("id")) if "reply_to" in envelope else None)


@mutant("SABIR-BODY-1", "vectors/requests/params-is-null", "SABIR-DEAD-1")
def takes_params_null() -> None:
    """params: null is "no parameters"."""
    reading(lambda envelope: envelope["body"].pop("params", 0) if envelope["body"].get("params", 0) is None else None)


@mutant("SABIR-BODY-1", "vectors/requests/deadline-is-zero", "SABIR-TIME-*")
def takes_a_deadline_of_zero() -> None:
    """A deadline of 0 means "never"."""
    reading(lambda envelope: envelope.pop("deadline", 0) if envelope.get("deadline", 1) == 0 else None)


@mutant("SABIR-BODY-1", "vectors/requests/v-is-a-string")
def takes_v_as_text() -> None:
    """v may be the text "1"."""
    reading(lambda envelope: envelope.update(v=1) if envelope.get("v") == "1" else None)


@mutant("SABIR-BODY-2", "server/methods/case")
def ignores_case() -> None:
    """A method is found whatever the case of its name."""

    @wrap(Methods, "find")
    def find(original: Any, self: Any, name: str) -> Any:
        return original(self, name) or original(self, name.lower())


@mutant("SABIR-BODY-2", "server/methods/unknown", "SABIR-BODY-3")
def calls_an_unknown_method_invalid() -> None:
    """An unknown method is InvalidRequest."""
    answering(errors.MethodNotFound.code, errors.InvalidRequest.code)


@mutant("SABIR-BODY-3", "server/methods/language-9")
def finds_attributes() -> None:
    """Methods are looked up among the attributes of the server, too."""

    @wrap(Methods, "find")
    def find(original: Any, self: Any, name: str) -> Any:
        found = original(self, name)
        other = getattr(self, name, None)
        return (other, Signature(other)) if found is None and callable(other) else found


@mutant("SABIR-BODY-4", "server/params/too-few", "SABIR-DEAD-2", "SABIR-SECURITY-1", "SABIR-ATTEMPT-1")
def does_not_count_parameters() -> None:
    """Parameters are not compared with the handler's."""

    @wrap(Signature, "fault")
    def fault(original: Any, self: Any, params: Any) -> None:
        return None


@mutant("SABIR-BODY-4", "server/params/fault-inside", "SABIR-SECURITY-1")
def blames_the_caller() -> None:
    """A type error inside a handler is InvalidParams."""

    @wrap(Dispatcher, "fail")
    def fail(original: Original[Settled], self: Any, job: Job, error: BaseException) -> Settled:
        settled = original(self, job, error)
        if isinstance(error, TypeError) and settled.reply:
            settled.reply = settled.reply.replace(b"-32603", b"-32602")
        return settled


@mutant("SABIR-JSON-2", "vectors/requests/NaN")
def reads_nan() -> None:
    """NaN and Infinity are read."""
    leniently(lambda data: json.loads(data.decode()))


@mutant("SABIR-JSON-2", "vectors/requests/a-byte-order-mark")
def reads_behind_a_byte_order_mark() -> None:
    """A byte order mark is skipped."""
    leniently(lambda data: orjson.loads(data.removeprefix(b"\xef\xbb\xbf")))


@mutant("SABIR-JSON-2", "vectors/requests/invalid-UTF-8-in-a-string")
def reads_invalid_utf_8() -> None:
    """Bytes that are no UTF-8 are replaced."""
    leniently(lambda data: orjson.loads(data.decode("utf-8", "replace")))


@mutant("SABIR-JSON-3", "vectors/requests/duplicate-method-the-last-counts")
def first_of_duplicates() -> None:
    """The first of duplicate names wins."""

    @wrap(messages, "decode_request")
    def decode_request(original: Original[Read], data: bytes, *args: Any) -> Read:
        read = original(data, *args)
        if len(data) < 10_000 and (type(read) is Request or read.id):
            return original(orjson.dumps(json.loads(data, object_pairs_hook=first_wins)), *args)
        return read


@mutant("SABIR-JSON-4", "vectors/requests/lone-high-surrogate")
def chokes_on_surrogates() -> None:
    """Nothing becomes of an element with a lone surrogate."""

    def change(read: Read, data: bytes) -> Read:
        if b"\\ud8" in data.lower() and b"\\ud83" not in data.lower():
            raise UnicodeError("surrogate")
        return read

    judging(change)


@mutant("SABIR-LIMIT-2", "server/limits/too-large-is-not-run", "SABIR-LIMIT-3")
def runs_what_is_too_large() -> None:
    """The size of an element is not looked at."""
    unlimited("max_bytes")


@mutant("SABIR-LIMIT-2", "server/limits/too-deep-is-not-run", "SABIR-LIMIT-3", "SABIR-JSON-2")
def runs_what_is_too_deep() -> None:
    """The depth of an element is not looked at."""
    unlimited("max_depth")


@mutant("SABIR-LIMIT-3", "vectors/requests/65-levels", "SABIR-LIMIT-2")
def answers_nothing_over_a_limit() -> None:
    """What is over a limit is always a dead letter."""
    judging(lambda read, data: dataclasses.replace(read, reply_to=None) if _is_over(read) else read)


@mutant("SABIR-LIMIT-3", "vectors/requests/over-a-limit-id-behind-the-body")
def reads_all_over_a_limit() -> None:
    """An element over a limit is read to its end to find its id."""

    def change(read: Read, data: bytes) -> Read:
        if _is_over(read):
            try:
                members = orjson.loads(data)
                if keys.is_id(members["id"]) and keys.is_token(members["reply_to"]):
                    return dataclasses.replace(read, id=members["id"], reply_to=members["reply_to"])
            except (ValueError, KeyError, TypeError):
                pass
        return read

    judging(change)


def _is_over(read: Read) -> bool:
    return type(read) is Rejection and read.code == errors.LimitExceeded.code
