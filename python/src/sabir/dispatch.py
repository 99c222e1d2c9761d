"""From an element to what is written for it: the register of methods, the check of parameters, the errors. Pure.

The shells (blocking, asyncio, in-process) do the waiting and call read() and receive(), then finish(), fail() or overrun().
"""

from __future__ import annotations

import contextvars
import copy
import inspect
import logging
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from . import errors, messages
from .keys import check
from .messages import Limits, Rejection, Request

log: Final = logging.getLogger("sabir")

Handler = Callable[..., Any]
H = TypeVar("H", bound=Handler)

_MESSAGE_CHARS: Final = 1_000
_TRACE_LINES: Final = 50


@dataclass(slots=True)
class Context:
    """What a handler may know of the request that it handles; see context()."""

    id: str
    service: str
    method: str
    worker: str
    caller: str | None
    """The client's name; None in a notification."""
    traceparent: str | None
    attempt: int
    """Which delivery it is: 1 for the first (SABIR-ATTEMPT-2)."""
    deadline: int | None
    """ms of Redis's clock; None: never expires."""
    clock: Callable[[], int]
    """Redis's clock now, in ms."""

    def time_left(self) -> float | None:
        """Seconds until the deadline (0 when it has come); None: no deadline."""
        return None if self.deadline is None else max(0, self.deadline - self.clock()) / 1000


_current: Final[contextvars.ContextVar[Job]] = contextvars.ContextVar("sabir.context")


def context() -> Context:
    """The context of the request that the calling handler handles. Raises LookupError outside of a handler."""
    return _current.get().context


def current() -> Context | None:
    """As context(), but None outside of a handler."""
    job = _current.get(None)
    return None if job is None else job.context


class Signature:
    """How many parameters a handler takes, and which names: checked before the handler is called (SABIR-BODY-4)."""

    __slots__ = ("_any_name", "_maximum", "_names", "_positional_only", "_required", "_required_names")

    def __init__(self, handler: Handler) -> None:
        positional, named, required = [], [], []
        self._maximum: float = 0
        self._any_name = False
        for p in inspect.signature(handler).parameters.values():
            if p.kind is p.VAR_POSITIONAL:
                self._maximum = float("inf")
            elif p.kind is p.VAR_KEYWORD:
                self._any_name = True
            else:
                if p.kind is not p.KEYWORD_ONLY:
                    positional.append(p)
                if p.kind is not p.POSITIONAL_ONLY:
                    named.append(p.name)
                if p.default is p.empty:
                    required.append(p)
        self._maximum += len(positional)
        self._names = frozenset(named)
        self._required_names = frozenset(p.name for p in required)
        # A required keyword-only parameter can't be given by position at all.
        keyword_only = any(p.kind is p.KEYWORD_ONLY for p in required)
        self._required: float = float("inf") if keyword_only else len(required)
        self._positional_only = any(p.kind is p.POSITIONAL_ONLY for p in required)

    def fault(self, params: messages.Params) -> str | None:
        """What does not fit, or None."""
        if isinstance(params, dict):
            if self._positional_only:
                return "expected positional parameters, got named ones"
            missing = self._required_names - params.keys()
            if missing:
                return f"expected parameters named {', '.join(sorted(missing))}"
            unknown = params.keys() - self._names
            if unknown and not self._any_name:
                return f"expected only {', '.join(sorted(self._names)) or 'no parameters'}, got {len(unknown)} unknown"
            return None
        count = len(params or ())
        if self._required <= count <= self._maximum:
            return None
        if self._required == float("inf"):
            return "expected named parameters, got positional ones"
        return f"expected {self._required} to {self._maximum} parameters, got {count}"


class Methods:
    """The methods of a service, registered by hand (SABIR-BODY-3)."""

    def __init__(self) -> None:
        self._table: dict[str, tuple[Handler, Signature]] = {}

    def method(self, handler: H | None = None, *, name: str | None = None) -> Any:
        """Decorator: register a function under its own name, or under ``name``."""
        if handler is None:
            return lambda function: self.method(function, name=name)
        self.register(name or handler.__name__, handler)
        return handler

    def register(self, name: str, handler: Handler) -> None:
        """Register a callable under a name.

        Raises ValueError for an illegal, reserved or doubled name, TypeError for what can't be called or checked.
        """
        if check("method", name).startswith("rpc."):
            raise ValueError(f"method: names that begin with rpc. are reserved, got {name!r}")
        if name in self._table:
            raise ValueError(f"method: {name!r} is registered already")
        if not callable(handler):
            raise TypeError(f"method {name!r}: expected a callable, got {type(handler).__name__}")
        try:
            self._table[name] = (handler, Signature(handler))
        except ValueError as error:
            raise TypeError(f"method {name!r}: its parameters are unknown, wrap it in a function ({error})") from None

    def expose(self, target: object, only: Iterable[str]) -> None:
        """Register the named methods of an object, and no others. Raises AttributeError for one that it does not have."""
        for name in only:
            self.register(name, getattr(target, name))

    def find(self, name: str) -> tuple[Handler, Signature] | None:
        """The handler of a name from the wire, looked up in the register and nowhere else (SABIR-BODY-3)."""
        return self._table.get(name)


@dataclass(slots=True)
class Settled:
    """What is to be written for an element: a reply to a token, a dead letter, or neither (a notification that was run)."""

    element: bytes
    token: str | None = None
    reply: bytes | None = None
    letter: bytes | None = None


@dataclass(slots=True)
class Job:
    """A request that is to be run now."""

    element: bytes
    request: Request
    handler: Handler
    lost: int
    """How many deliveries of it were lost before."""
    dispatcher: Dispatcher
    _context: Context | None = None

    @property
    def context(self) -> Context:
        """What the handler may know of it; made when somebody asks."""
        if self._context is None:
            request, of = self.request, self.dispatcher
            self._context = Context(
                request.id,
                of.service,
                request.method,
                of.worker,
                request.reply_to.partition(".")[0] if request.reply_to else None,
                request.traceparent,
                self.lost + 1,
                request.deadline,
                of.clock,
            )
        return self._context

    def call(self) -> Any:
        """Call the handler, with the context set. Returns and raises what it does."""
        token = _current.set(self)
        try:
            params = self.request.params
            if isinstance(params, dict):
                return self.handler(**params)
            return self.handler(*params) if params else self.handler()
        finally:
            _current.reset(token)

    async def call_async(self) -> Any:
        """As call(), and await what the handler returns if it can be awaited."""
        token = _current.set(self)
        try:
            params = self.request.params
            result = self.handler(**params) if isinstance(params, dict) else self.handler(*(params or ()))
            return await result if inspect.isawaitable(result) else result
        finally:
            _current.reset(token)


def _text(text: str) -> str:
    """Text that can be sent: no lone surrogates, not too long."""
    return text[:_MESSAGE_CHARS].encode("utf-8", "replace").decode()


def _describe(error: BaseException) -> str:
    """Class and text of what a handler raised, for the wire."""
    try:
        text = str(error.message if isinstance(error, errors.SabirError) else error)
    except BaseException:  # noqa: BLE001 - its __str__ is the application's
        text = "(no text)"
    return _text(f"{type(error).__name__}: {text}")


class Dispatcher:
    """Decides what becomes of an element. ``now``, ``clock``: Redis's clock in ms."""

    def __init__(
        self, service: str, worker: str, methods: Methods, limits: Limits, traces: bool, clock: Callable[[], int]
    ) -> None:
        self.service = service
        self.worker = worker
        self._methods = methods
        self._limits = limits
        self._traces = traces
        self.clock = clock

    def with_clock(self, clock: Callable[[], int]) -> Dispatcher:
        """The same, with another clock."""
        other = copy.copy(self)
        other.clock = clock
        return other

    def read(self, element: bytes) -> Request | Rejection:
        """What an element that was taken means."""
        return messages.decode_request(element, self._limits)

    def receive(self, element: bytes, request: Request | Rejection | None = None, lost: int = 0) -> Job | Settled:
        """What to do with an element that was taken (section 12 has the order of errors).

        ``request``: what read() has returned for it, None: it is read here. ``lost``: how many deliveries of it were lost
        (SABIR-ATTEMPT-1).
        """
        if request is None:
            request = self.read(element)
        if type(request) is Rejection:
            log.warning("%s: refused element %s: %s", self.service, request.id or "without id", request.message)
            error = messages.error_object(request.code, request.message)
            return self._settle_error(element, request.id, request.reply_to, error)
        assert isinstance(request, Request)  # noqa: S101 - for mypy
        if request.deadline is not None and self.clock() >= request.deadline:  # SABIR-TIME-3
            return self._unstarted(element, request, lost, errors.DeadlineExceeded.code, "the deadline had come")
        found = self._methods.find(request.method)
        if found is None:
            return self._unstarted(element, request, lost, errors.MethodNotFound.code, f"no method {request.method!r}")
        handler, signature = found
        fault = signature.fault(request.params)
        if fault:
            return self._unstarted(element, request, lost, errors.InvalidParams.code, f"{request.method}: {fault}")
        return Job(element, request, handler, lost, self)

    def finish(self, job: Job, result: Any) -> Settled:
        """What to write when the handler has returned."""
        request = job.request
        if request.reply_to is None:
            return Settled(job.element)
        try:
            reply = messages.encode_result(request.id, self.worker, result, self._limits)
        except Exception as error:  # noqa: BLE001 - SABIR-LIMIT-4; it may even change while it is written
            message = error.message if isinstance(error, errors.SabirError) else str(error)
            return self._refuse(job.element, request, errors.InvalidResult.code, message)
        return Settled(job.element, request.reply_to, reply)

    def fail(self, job: Job, error: BaseException) -> Settled:
        """What to write when the handler has raised (SABIR-ERROR-1, -2, -3)."""
        request = job.request
        if isinstance(error, errors.ApplicationError) and errors.is_application_code(error.code):
            try:
                data = error.data if error.has_data else errors.MISSING
                wire = messages.error_object(error.code, str(error.message), data)
                return self._settle_error(job.element, request.id, request.reply_to, wire, self._limits)
            except Exception as unsendable:  # noqa: BLE001 - message and data are the application's
                log.warning("%s: %s %s: %s", self.service, request.method, request.id, type(unsendable).__name__)
        log.error("%s: %s %s raised %s", self.service, request.method, request.id, type(error).__name__)
        log.debug("%s: %s", self.service, request.id, exc_info=error)
        data = errors.MISSING
        if self._traces:
            lines = traceback.format_exception(error)[-_TRACE_LINES:]
            data = {"trace": [_text(line) for line in lines]}
        wire = messages.error_object(errors.InternalError.code, _describe(error), data)
        return self._settle_error(job.element, request.id, request.reply_to, wire)

    def overrun(self, job: Job, seconds: float) -> Settled:
        """What to write when the handler has run longer than the limit of ``seconds`` (SABIR-RUN-1)."""
        return self._refuse(
            job.element, job.request, errors.InternalError.code, f"the handler ran longer than {seconds:g} s"
        )

    def _unstarted(self, element: bytes, request: Request, lost: int, code: int, message: str) -> Settled:
        """Refuse a request that this worker does not start; an earlier one may have (SABIR-ATTEMPT-1)."""
        if lost:
            code, message = errors.WorkerLost.code, f"a worker that had it before was lost; now {message}"
        return self._refuse(element, request, code, message)

    def _refuse(self, element: bytes, request: Request, code: int, message: str) -> Settled:
        log.warning("%s: %s %s: %s", self.service, request.method, request.id, message)
        return self._settle_error(element, request.id, request.reply_to, messages.error_object(code, message))

    def _settle_error(
        self,
        element: bytes,
        id: str | None,
        reply_to: str | None,
        error: dict[str, Any],
        limits: Limits = messages.UNLIMITED,  # our own errors are short, and have to be sent whatever the limit
    ) -> Settled:
        if id is None or reply_to is None:
            return Settled(element, letter=messages.encode_dead_letter(self.clock(), self.worker, error, element))
        return Settled(element, reply_to, messages.encode_error(id, self.worker, error, limits))
