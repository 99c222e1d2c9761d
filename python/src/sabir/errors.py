"""The error tree, and code ↔ class. The codes and names are those of ``protocol/errors.json``; a test compares them.

SabirError                   any failure of a call
├── ApplicationError         raised by a handler on purpose, with a code of its own
├── ParseError …             one class for each row of the table
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Final

RESERVED: Final = range(-32768, -32000 + 1)
"""Codes that applications may not use."""

MISSING: Final[Any] = type("Missing", (), {"__repr__": lambda _: "MISSING", "__bool__": lambda _: False})()
"""Stands for an absent ``data``, which is something else than ``None`` (JSON null)."""

NEVER_STARTED: Final = "never started"
MAY_HAVE_RUN: Final = "may have run"
RAN: Final = "ran"


class SabirError(Exception):
    """A call that failed.

    Raised itself only for a reserved code that this version does not know (SABIR-ERROR-4).

    ``code``: int, see ``protocol/errors.json``. ``message``: str, for people. ``data``: any JSON value, None if absent.
    """

    code: int = -32000
    outcome: ClassVar[str] = MAY_HAVE_RUN
    """What is known of the handler: "never started", "may have run" or "ran"."""
    retryable: ClassVar[bool] = False
    """The same request may be sent again as a new one, with some hope."""

    # On the class too: a subclass need not call this __init__.
    message: str = ""
    data: Any = None
    has_data: bool = False
    """Whether there is ``data`` at all; None may be data."""

    def __init__(self, message: str = "", code: int | None = None, data: Any = MISSING) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        if data is not MISSING:
            self.data, self.has_data = data, True

    def __str__(self) -> str:
        return f"{self.message} ({self.code}, {self.outcome})"


class ApplicationError(SabirError):
    """An error that a handler raises on purpose (SABIR-ERROR-2), and that its caller gets with code, message and data.

    Subclass it with a ``code`` outside -32768…-32000, and name the class to the client (``errors=[…]``) to get it back.
    """

    code: int = 1
    outcome = RAN


class ParseError(SabirError):
    """The element is not UTF-8 JSON; stands in dead letters only."""

    code, outcome = -32700, NEVER_STARTED


class InvalidRequest(SabirError):
    """The envelope or the body is not what the specification asks for."""

    code, outcome = -32600, NEVER_STARTED


class MethodNotFound(SabirError):
    """The service has no method of this name."""

    code, outcome = -32601, NEVER_STARTED


class InvalidParams(SabirError):
    """The number or the names of the parameters do not fit the method."""

    code, outcome = -32602, NEVER_STARTED


class InternalError(SabirError):
    """The handler raised something that is no application error."""

    code, outcome = -32603, RAN


class DeadlineExceeded(SabirError):
    """The deadline had come before the handler could start."""

    code, outcome, retryable = -32001, NEVER_STARTED, True


class CallTimeout(SabirError):
    """The time-out passed without a reply."""

    code, outcome = -32002, MAY_HAVE_RUN


class ServiceUnavailable(SabirError):
    """No worker serves."""

    code, outcome, retryable = -32003, NEVER_STARTED, True


class Overloaded(SabirError):
    """The queue is longer than its bound; the request was taken back."""

    code, outcome, retryable = -32004, NEVER_STARTED, True


class WorkerLost(SabirError):
    """The worker that had the request was lost."""

    code, outcome = -32005, MAY_HAVE_RUN


class UnsupportedVersion(SabirError):
    """The version of the envelope is higher than the worker knows."""

    code, outcome = -32006, NEVER_STARTED


class LimitExceeded(SabirError):
    """The request is larger or nested deeper than the limit."""

    code, outcome = -32007, NEVER_STARTED


class InvalidResult(SabirError):
    """The handler's result cannot be written as JSON, or exceeds a limit."""

    code, outcome = -32008, RAN


class ConnectionLost(SabirError):
    """The connection to Redis was lost after the request was sent, and did not come back in time."""

    code, outcome = -32009, MAY_HAVE_RUN


class NotQueued(SabirError):
    """Redis refused the request, or could not be reached to send it."""

    code, outcome, retryable = -32010, NEVER_STARTED, True


class InvalidReply(SabirError):
    """The reply to the call is not what the specification asks for."""

    code, outcome = -32011, MAY_HAVE_RUN


TABLE: Final[dict[int, type[SabirError]]] = {
    cls.code: cls
    for cls in (
        ParseError,
        InvalidRequest,
        MethodNotFound,
        InvalidParams,
        InternalError,
        DeadlineExceeded,
        CallTimeout,
        ServiceUnavailable,
        Overloaded,
        WorkerLost,
        UnsupportedVersion,
        LimitExceeded,
        InvalidResult,
        ConnectionLost,
        NotQueued,
        InvalidReply,
    )
}
"""Code → class, one for each row of ``protocol/errors.json``."""


def application_classes(classes: Iterable[type[ApplicationError]]) -> dict[int, type[ApplicationError]]:
    """Code → class of an application's own errors.

    Raises TypeError for what is no subclass of ApplicationError, ValueError for a reserved or doubled code.
    """
    table: dict[int, type[ApplicationError]] = {}
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, ApplicationError)):
            raise TypeError(f"errors: expected subclasses of ApplicationError, got {cls!r}")
        if not is_application_code(cls.code) or cls.code in table:
            raise ValueError(
                f"errors: expected a code of its own outside -32768…-32000, got {cls.code!r} of {cls.__name__}"
            )
        table[cls.code] = cls
    return table


def is_application_code(code: object) -> bool:
    """Whether a code may be an application's (SABIR-ERROR-3)."""
    return type(code) is int and code not in RESERVED and -(2**53) < code < 2**53


def from_wire(code: int, message: str, data: Any, own: dict[int, type[ApplicationError]]) -> SabirError:
    """The error for a response's code (SABIR-ERROR-4), with code, message and data kept (SABIR-ERROR-5).

    ``data`` is MISSING where the response has none. ``own``: what application_classes() returned.
    """
    if code in RESERVED:
        return TABLE.get(code, SabirError)(message, code, data)
    cls = own.get(code, ApplicationError)
    error = cls.__new__(cls)  # a subclass may have an __init__ of its own; what came is kept as it came
    SabirError.__init__(error, message, code, data)
    return error
