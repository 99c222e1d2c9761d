"""Mutants of the worker: what it answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sabir import errors, messages
from sabir.dispatch import Dispatcher, Job, Settled
from sabir.errors import ApplicationError, SabirError
from sabir.messages import UNLIMITED

from .. import Original, mutant, wrap
from ..both import sending
from .shared import answering


@mutant("SABIR-REPLY-1", "server/values/null")
def leaves_null_out() -> None:
    """A reply with the result null has no result."""

    @wrap(messages, "encode_result")
    def encode_result(original: Original[bytes], id: str, worker: str, result: Any, *args: Any) -> bytes:
        reply = original(id, worker, result, *args)
        return reply.replace(b',"result":null}}', b"}}") if result is None else reply


@mutant("SABIR-REPLY-1", "server/replies/id-of-an-invalid-request", "SABIR-BODY-*", "SABIR-JSON-3")
def no_id_of_an_invalid_request() -> None:
    """The reply to an invalid request has the body id null, as plain JSON-RPC would."""

    @wrap(messages, "encode_error")
    def encode_error(original: Original[bytes], id: str, worker: str, error: dict[str, Any], *args: Any) -> bytes:
        reply = original(id, worker, error, *args)
        return reply.replace(f'"2.0","id":"{id}"'.encode(), b'"2.0","id":null') if error["code"] == -32600 else reply


@mutant("SABIR-REPLY-2", "server/hand/equal-elements")
def answers_equal_elements_once() -> None:
    """Of two equal elements the second is removed and not answered."""
    seen: set[tuple[int, bytes]] = set()

    @wrap(Dispatcher, "receive")
    def receive(original: Any, self: Any, element: bytes, *args: Any) -> Any:
        if (id(self), element) in seen:
            return Settled(element)
        seen.add((id(self), element))
        return original(self, element, *args)


@mutant("SABIR-REPLY-2", "server/replies/once", "SABIR-REPLY-3", "SABIR-LOST-4", "SABIR-TOKEN-2")
def answers_twice() -> None:
    """Each reply is pushed twice."""
    sending("replies", lambda cmds: [(*c, c[-1]) if c[0] == "RPUSH" else c for c in cmds])


_LEFT_UNREAD = ("server/replies/*", "SABIR-LOST-4", "SABIR-REPLY-2", "SABIR-TIME-5")  # cases that leave a reply unread


@mutant("SABIR-REPLY-3", "server/replies/expiry", *_LEFT_UNREAD)
def replies_stay() -> None:
    """Reply lists do not expire."""
    sending("replies", lambda cmds: [c for c in cmds if c[0] != "PEXPIRE"])


@mutant("SABIR-REPLY-3", "server/replies/expiry", "server/replies/token-of-one-character")
def replies_expire_in_a_second() -> None:
    """Reply lists expire after a second."""
    sending("replies", lambda cmds: [(*c[:2], "1000") if c[0] == "PEXPIRE" else c for c in cmds])


@mutant("SABIR-REPLY-3", "server/replies/expiry-renewed")
def expiry_is_set_once() -> None:
    """A second reply to the same token does not renew the expiry."""
    sending("replies", lambda cmds: [(*c, "NX") if c[0] == "PEXPIRE" else c for c in cmds])


@mutant("SABIR-REPLY-3", "server/replies/transaction", "SABIR-LOST-4", "SABIR-REPLY-2")
def acknowledges_apart() -> None:
    """The element is removed from the hand behind the transaction."""
    sending("replies", lambda cmds: [c for c in cmds if c[0] != "LREM"] + [c for c in cmds if c[0] == "LREM"])


@mutant("SABIR-JSON-1", "server/values/unicode", "server/faults/*")
def writes_a_byte_order_mark() -> None:
    """A reply with text beyond ASCII begins with a byte order mark."""

    @wrap(messages, "encode_result")
    def encode_result(original: Original[bytes], *args: Any) -> bytes:
        reply = original(*args)
        return reply if reply.isascii() else b"\xef\xbb\xbf" + reply


@mutant("SABIR-JSON-1", "server/values/fractions", "server/values/*", "SABIR-LIMIT-*")
def writes_a_name_twice() -> None:
    """A reply with an array as its result has the member v twice."""

    @wrap(messages, "encode_result")
    def encode_result(original: Original[bytes], *args: Any) -> bytes:
        reply = original(*args)
        return reply.replace(b'{"v":1,', b'{"v":1,"v":1,', 1) if b'"result":[' in reply else reply


@mutant("SABIR-JSON-1", "server/errors/unwritable-surrogate")
def writes_surrogates() -> None:
    """A lone surrogate is sent as an escape."""

    @wrap(messages, "encode_result")
    def encode_result(original: Original[bytes], id: str, worker: str, result: Any, *args: Any) -> bytes:
        if result == "\ud800":
            return original(id, worker, "?", *args).replace(b'"?"', b'"\\ud800"')
        return original(id, worker, result, *args)


@mutant("SABIR-LIMIT-4", "server/errors/unwritable-other")
def calls_a_bad_result_internal() -> None:
    """A result that cannot be written is InternalError."""
    answering(errors.InvalidResult.code, errors.InternalError.code)


@mutant("SABIR-LIMIT-4", "server/errors/unwritable-nan")
def writes_null_for_nan() -> None:
    """A result that is NaN is sent as null."""

    @wrap(messages, "encode_result")
    def encode_result(original: Original[bytes], id: str, worker: str, result: Any, *args: Any) -> bytes:
        return original(id, worker, None if result != result else result, *args)  # noqa: PLR0124 - that is NaN


@mutant("SABIR-LIMIT-4", "server/errors/too-large")
def sends_what_is_too_large() -> None:
    """The size of a result is not looked at."""

    @wrap(messages, "encode_result")
    def encode_result(original: Original[bytes], id: str, worker: str, result: Any, *args: Any) -> bytes:
        return original(id, worker, result, UNLIMITED)


@mutant(
    "SABIR-ERROR-1",
    "server/errors/plain",
    "SABIR-WORKER-*",
    "SABIR-BODY-4",
    "SABIR-SECURITY-1",
    "SABIR-DEAD-2",
    "SABIR-KEY-1",
)
def sends_any_error_as_the_application_s() -> None:
    """Whatever a handler raises is an application error with the code 1."""

    @wrap(Dispatcher, "fail")
    def fail(original: Original[Settled], self: Any, job: Job, error: BaseException) -> Settled:
        return original(self, job, error if isinstance(error, SabirError) else ApplicationError(str(error), code=1))


@mutant("SABIR-ERROR-1", "server/errors/of-sabir-itself")
def passes_on_its_own_errors() -> None:
    """An error of a call that the handler made goes to its caller as it is."""

    @wrap(Dispatcher, "fail")
    def fail(original: Original[Settled], self: Any, job: Job, error: BaseException) -> Settled:
        settled = original(self, job, error)
        if isinstance(error, SabirError) and not isinstance(error, ApplicationError) and settled.reply:
            settled.reply = settled.reply.replace(b"-32603", str(error.code).encode())
        return settled


def _changing(change: Callable[[ApplicationError], None]) -> None:
    @wrap(Dispatcher, "fail")
    def fail(original: Original[Settled], self: Any, job: Job, error: BaseException) -> Settled:
        if isinstance(error, ApplicationError):
            change(error)
        return original(self, job, error)


@mutant("SABIR-ERROR-2", "server/errors/application")
def drops_data() -> None:
    """An application error is sent without its data."""
    _changing(lambda error: setattr(error, "has_data", False))


@mutant("SABIR-ERROR-2", "server/errors/application-data-false")
def drops_false_data() -> None:
    """Data that counts as false is not sent."""
    _changing(lambda error: setattr(error, "has_data", bool(error.data)))


@mutant("SABIR-ERROR-2", "server/errors/application-message-empty")
def fills_in_a_message() -> None:
    """An empty message is replaced."""
    _changing(lambda error: setattr(error, "message", error.message or "error"))


@mutant("SABIR-ERROR-3", "server/errors/code-forged")
def lets_codes_be_forged() -> None:
    """An application error may have a code of the table."""

    @wrap(errors, "is_application_code")
    def is_application_code(original: Original[bool], code: object) -> bool:
        return type(code) is int


@mutant("SABIR-ERROR-3", "server/errors/too-large-error-data")
def sends_data_over_the_limit() -> None:
    """The size of an error's data is not looked at."""

    @wrap(messages, "encode_error")
    def encode_error(original: Original[bytes], id: str, worker: str, error: dict[str, Any], *args: Any) -> bytes:
        return original(id, worker, error, UNLIMITED)
