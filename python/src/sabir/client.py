"""The blocking client: call, wait, time out. May be shared between threads, and survives a fork."""

from __future__ import annotations

import math
import os
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from . import commands, dispatch, errors, messages
from ._link import ANSWER, MARGIN, Backoff, Clock, Link, LinkLost, LinkRefused, describe, factory, is_transient
from .errors import ApplicationError, SabirError, application_classes
from .keys import NAMESPACE, Keys, check
from .messages import MAX_BYTES, MAX_DEPTH, MAX_INTEGER, Limits, Params

if TYPE_CHECKING:
    import redis as redis_py

TIMEOUT: Final = 30.0
"""The default time-out of a call, in seconds (SABIR-CALL-3)."""

_LONGEST: Final = 1e9  # seconds (SABIR-CALL-4)
_BLOCK: Final = 5.0
_SILENCE: Final = 0.5  # seconds after its time-out at which a call on a silent connection has to end (SABIR-CALL-2)
_IDLE: Final = 0.01  # seconds after which a connection is looked at before it is used again

Call = tuple[str, Params] | tuple[str]


class Service:
    """A service's methods as local ones: ``calc.add(1, 2)``, ``calc.add(a=1, b=2)``.

    Every name but Python's own ``__dunders__`` is a remote method; Client.call() reaches those too.
    """

    __slots__ = ("__call",)

    def __init__(self, call: Callable[[str, Params], Any]) -> None:
        self.__call = call

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        call = self.__call

        def method(*args: Any, **kwargs: Any) -> Any:
            return call(name, parameters(name, args, kwargs))

        return method


def parameters(method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Params:
    """Positional or named parameters. Raises TypeError for both at once: JSON-RPC has no such call."""
    if args and kwargs:
        raise TypeError(f"{method}: expected positional or named parameters, got both")
    return kwargs or list(args) or None


def seconds(timeout: float | None, default: float) -> float:
    """The time-out of a call. Raises ValueError or TypeError for what is no number of seconds up to 10^9 (SABIR-CALL-4)."""
    if timeout is None:
        return default
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout: expected seconds, got {timeout!r:.100}")
    if not 0 < timeout <= _LONGEST:
        raise ValueError(f"timeout: expected a number of seconds > 0 and at most 10^9, got {timeout!r:.100}")
    return float(timeout)


class HasClock(Protocol):
    """What tells Redis's time."""

    def now_ms(self) -> int:
        """Redis's clock, in ms."""


def new_token(name: str) -> str:
    """A token with 64 random bits (SABIR-TOKEN-1)."""
    return f"{name}.{secrets.token_hex(8)}"


def new_id() -> str:
    """An envelope id of 128 random bits (SABIR-ENVELOPE-2)."""
    return secrets.token_hex(16)


class Plan:
    """What all requests of one push share: the deadline, and what is inherited from the handler (SABIR-TIME-5)."""

    __slots__ = ("_idempotent", "_latest", "_limits", "_requests", "_trace", "ends", "ids", "seconds")

    def __init__(
        self,
        requests: Sequence[Call],
        seconds: float,
        limits: Limits,
        idempotent: bool = False,
        traceparent: str | None = None,
    ) -> None:
        now = time.monotonic()
        handled = dispatch.current()
        self._latest: int | None = None
        if handled is not None:
            traceparent = handled.traceparent if traceparent is None else traceparent
            left = handled.time_left()
            if left is not None:
                if left <= 0:
                    raise errors.DeadlineExceeded("the deadline of the request that is being handled has come")
                self._latest = handled.deadline
                seconds = min(seconds, left)
        self.seconds = seconds
        self.ends = now + seconds
        """When the call's time-out passes (monotonic, s)."""
        self.ids = [new_id() for _ in requests]
        self._requests = requests
        self._limits = limits
        self._idempotent = idempotent
        self._trace = traceparent

    def left(self) -> float:
        """Seconds until the time-out passes; 0 or less: it has."""
        return self.ends - time.monotonic()

    def elements(self, token: str, clock: HasClock) -> list[bytes]:
        """The requests as elements, with their deadline (SABIR-CALL-5). Raises what encode_request() raises."""
        deadline = _deadline(clock, max(self.left(), 0))
        if self._latest is not None:
            deadline = min(deadline, self._latest)
        return [
            messages.encode_request(
                id,
                token,
                *request,
                deadline=deadline,
                idempotent=self._idempotent,
                traceparent=self._trace,
                limits=self._limits,
            )
            for id, request in zip(self.ids, self._requests, strict=True)
        ]


def _deadline(clock: HasClock, seconds: float) -> int:
    return math.ceil(min(clock.now_ms() + seconds * 1000, MAX_INTEGER))


def notification(
    method: str, params: Params, expires: float | None, idempotent: bool, traceparent: str | None, limits: Limits
) -> tuple[str, Callable[[HasClock], bytes]]:
    """The id of a notification, and what makes its element at the moment of sending. ``expires``: seconds, None: never."""
    handled = dispatch.current()
    if handled is not None and traceparent is None:
        traceparent = handled.traceparent
    lasts = None if expires is None else seconds(expires, TIMEOUT)
    id = new_id()

    def element(clock: HasClock) -> bytes:
        deadline = None if lasts is None else _deadline(clock, lasts)
        return messages.encode_request(
            id,
            None,
            method,
            params,
            deadline=deadline,
            idempotent=idempotent,
            traceparent=traceparent,
            limits=limits,
        )

    return id, element


class _Line:
    """A connection on which one call at a time waits, and its token (SABIR-TOKEN-1)."""

    __slots__ = ("clock", "link", "token")

    def __init__(self, name: str, connect: Callable[[], Any]) -> None:
        self.clock = Clock()
        self.link = Link(connect, self.clock)
        self.token = new_token(name)

    @property
    def is_ready(self) -> bool:
        """Whether a request may be sent at once: connected, and the clock fresh."""
        return self.link.is_open and not self.clock.is_old()


class Client:
    """Calls methods of services.

    ``url``: of the Redis; ``redis``: a ``redis.Redis`` whose settings are used instead. ``namespace``: first part of all
    keys. ``name``: of this client, for ACLs and for handlers that ask who calls. ``timeout``: seconds for each call unless
    it says otherwise. ``errors``: subclasses of ApplicationError, raised for their codes. ``max_bytes``, ``max_depth``:
    limits of what is sent (SABIR-LIMIT-1).

    Raises ValueError or TypeError for an argument outside its grammar. Nothing is sent before the first call.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        redis: redis_py.Redis | None = None,
        namespace: str = NAMESPACE,
        name: str = "client",
        timeout: float = TIMEOUT,
        errors: Iterable[type[ApplicationError]] = (),
        max_bytes: int = MAX_BYTES,
        max_depth: int = MAX_DEPTH,
    ) -> None:
        self._namespace = check("namespace", namespace)
        self._name = check("client", name)
        self._timeout = seconds(timeout, TIMEOUT)
        self._own = application_classes(errors)
        self._limits = Limits(max_bytes, max_depth)
        self._connect = factory(url, redis)
        self._keys: dict[str, Keys] = {}
        self._forget_lines()

    def service(self, service: str, *, timeout: float | None = None, idempotent: bool = False) -> Service:
        """The methods of a service as local ones. ``timeout``: seconds for each call, None: the client's.

        Raises ValueError for a service name outside its grammar.
        """
        self._keys_of(service)
        limit = seconds(timeout, self._timeout)

        def call(method: str, params: Params) -> Any:
            return self.call(service, method, params, timeout=limit, idempotent=idempotent)

        return Service(call)

    def call(
        self,
        service: str,
        method: str,
        params: Params = None,
        timeout: float | None = None,
        *,
        idempotent: bool = False,
        traceparent: str | None = None,
    ) -> Any:
        """Call a method and return its result.

        ``params``: a list (positional), a dict (named) or None. ``timeout``: seconds, None: the client's. ``idempotent``:
        running it more than once does no harm. ``traceparent``: W3C Trace Context, None: that of the request being handled.

        Raises a SabirError (each class says what is known of the handler), ValueError or TypeError for what the encoder
        refuses; of these nothing was sent.
        """
        plan = Plan([(method, params)], seconds(timeout, self._timeout), self._limits, idempotent, traceparent)
        outcome = self._exchange(self._keys_of(service), plan)[0]
        if outcome.error is not None:
            raise outcome.error
        return outcome.result

    def many(
        self, service: str, calls: Sequence[Call], timeout: float | None = None, *, idempotent: bool = False
    ) -> list[Any]:
        """Many calls at once: pushed together, shared by the workers (SABIR-CALL-1).

        ``calls``: (method, params) each. Returns the results in the same order; a failed call's place holds its error.
        Raises ValueError or TypeError for what the encoder refuses; of these nothing was sent.
        """
        if not calls:
            return []
        plan = Plan(calls, seconds(timeout, self._timeout), self._limits, idempotent)
        outcomes = self._exchange(self._keys_of(service), plan)
        return [outcome.result if outcome.error is None else outcome.error for outcome in outcomes]

    def notify(
        self,
        service: str,
        method: str,
        params: Params = None,
        *,
        expires: float | None = None,
        idempotent: bool = False,
        traceparent: str | None = None,
        timeout: float | None = None,
    ) -> str:
        """Send a notification: it is run once, and nobody is told how it went. Returns its id.

        ``expires``: seconds after which it is not started any more, None: never. ``timeout``: seconds to get it queued.

        Raises NotQueued, or ConnectionLost when it may be queued (SABIR-LOST-1); ValueError or TypeError as call().
        """
        keys = self._keys_of(service)
        ends = time.monotonic() + seconds(timeout, self._timeout)
        id, element = notification(method, params, expires, idempotent, traceparent, self._limits)
        line = self._checkout()
        try:
            if not line.is_ready:
                element(line.clock)
            self._connected(line, ends)
            self._push(line, keys, [element(line.clock)], ends, waits=False)
        finally:
            self._checkin(line)
        return id

    def close(self) -> None:
        """Close the idle connections. The client may be used again."""
        while self._idle:
            self._idle.pop().link.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------ inside

    def _keys_of(self, service: str) -> Keys:
        keys = self._keys.get(service)
        if keys is None:
            keys = self._keys[service] = Keys(self._namespace, service)
        return keys

    def _forget_lines(self) -> None:
        """Begin anew, also in a child process: connections and tokens are never shared between processes."""
        self._idle: list[_Line] = []  # append() and pop() are atomic
        self._pid = os.getpid()  # last: a thread that sees it uses the new list

    def _checkout(self) -> _Line:
        if self._pid != os.getpid():
            self._forget_lines()
        try:
            line = self._idle.pop()
        except IndexError:
            return _Line(self._name, self._connect)
        if time.monotonic() - line.link.used > _IDLE and line.link.is_stale():
            line.link.close()
        return line

    def _checkin(self, line: _Line) -> None:
        if line.link.is_open and not line.link.unread:
            self._idle.append(line)
        else:  # lost, or left by an exception from outside (KeyboardInterrupt) with an answer to come
            line.link.close()

    def _connected(self, line: _Line, ends: float) -> None:
        """See to it that the line is connected and its clock fresh. Raises NotQueued when the time-out passes."""
        backoff = Backoff()
        while True:
            left = min(max(ends - time.monotonic(), 0.001), ANSWER)
            try:
                if not line.link.is_open:
                    line.link.open(left)
                elif line.clock.is_old():
                    sent = time.monotonic()
                    answer = line.link.run(commands.clock(), left)[0]
                    if isinstance(answer, Exception):
                        line.link.close()
                        raise LinkRefused(answer)
                    line.clock.update(answer, sent)
            except LinkRefused as refused:
                if not is_transient(refused.error):
                    raise errors.NotQueued(f"Redis refused the connection: {refused}") from refused
                reason: Exception = refused
            except LinkLost as lost:
                reason = lost
            else:
                return
            pause = backoff.pause()
            if ends - time.monotonic() <= pause:
                raise errors.NotQueued(f"no connection to Redis: {reason}") from reason
            time.sleep(pause)

    def _push(self, line: _Line, keys: Keys, elements: list[bytes], ends: float, *, waits: bool) -> float:
        """RPUSH, and the first wait behind it in the same write; returns that wait's block, when the RPUSH is answered.

        Raises NotQueued for an error reply (SABIR-LOST-5), ConnectionLost when nobody knows (SABIR-LOST-1).
        """
        link, backoff = line.link, Backoff()
        while True:
            left = max(ends - time.monotonic(), 0)
            block = self._block(left)
            wait = commands.wait(keys, line.token, block * 1000) if waits else []
            try:
                link.send(commands.push(keys, elements) + wait, left + _SILENCE)
                answer = link.read(min(ANSWER, max(ends - time.monotonic(), 0) + _SILENCE))
            except LinkLost as lost:
                raise errors.ConnectionLost(f"connection to Redis lost while the request was sent: {lost}") from lost
            if not isinstance(answer, Exception):
                return block
            link.close()  # the wait behind the push is blocked
            pause = backoff.pause()
            if not is_transient(answer) or ends - time.monotonic() <= pause:
                raise errors.NotQueued(f"Redis refused the request: {describe(answer)}") from answer
            time.sleep(pause)
            self._connected(line, ends)

    def _exchange(self, keys: Keys, plan: Plan) -> list[messages.Response]:
        """Push the plan's requests and wait for a reply to each."""
        line = self._checkout()
        try:
            if not line.is_ready:
                plan.elements(line.token, line.clock)  # what the encoder refuses is refused before anything is sent
            self._connected(line, plan.ends)
            elements = plan.elements(line.token, line.clock)
            block, trouble = None, None
            try:
                block = self._push(line, keys, elements, plan.ends, waits=True)
            except errors.ConnectionLost as lost:
                trouble = lost
            return self._collect(line, keys, plan, block, trouble)
        except errors.NotQueued as error:
            return [messages.Response(id, error=error) for id in plan.ids]
        finally:
            self._checkin(line)

    @staticmethod
    def _block(left: float) -> float:
        return max(min(_BLOCK, left), 0.001)

    def _collect(
        self, line: _Line, keys: Keys, plan: Plan, block: float | None, trouble: Exception | None
    ) -> list[messages.Response]:
        """Read replies until all are there or the time-out passes.

        ``block``: of the wait under way, None: none is. ``trouble``: why the connection was lost, if it was.
        """
        link, backoff, reopened = line.link, Backoff(), False
        replies: dict[str, messages.Response] = {}
        missing = set(plan.ids)
        while missing:
            left = plan.left()
            try:
                if block is None:
                    if left <= 0:
                        break
                    if not link.is_open:
                        reopened = True
                        link.open(min(left, ANSWER))  # and go on waiting on the same token (SABIR-LOST-2)
                    block = self._block(left)
                    link.send(commands.wait(keys, line.token, block * 1000), ANSWER)
                answer = link.read(min(block + MARGIN, max(left, 0) + _SILENCE))
                if isinstance(answer, Exception):
                    raise LinkRefused(answer)
            except (LinkLost, LinkRefused) as error:
                block, trouble = None, error
                link.drop(error)
                time.sleep(max(min(backoff.pause(), plan.left()), 0))
                continue
            block, trouble = None, None
            backoff.reset()
            if answer is None:
                continue
            reply = messages.decode_reply(answer[1], self._own)
            if reply is not None and reply.id in missing:  # any other is late (SABIR-REPLY-4)
                missing.discard(reply.id)
                replies[reply.id] = reply
        if missing or reopened:
            line.token = new_token(self._name)  # what comes late, or to an old connection, stays away from the next call
        for id in missing:
            replies[id] = messages.Response(id, error=no_reply(plan, trouble))
        return [replies[id] for id in plan.ids]


def no_reply(plan: Plan, trouble: Exception | None) -> SabirError:
    """The error of a call whose time-out has passed. ``trouble``: what Redis does at the moment; None: it works."""
    if trouble is None or isinstance(trouble, LinkRefused):
        why = f": Redis refuses to wait: {trouble}" if trouble else ""
        return errors.CallTimeout(f"no reply within {plan.seconds:.3f} s{why}")  # SABIR-CALL-6
    return errors.ConnectionLost(f"connection to Redis lost, and not back within the time-out: {trouble}")  # SABIR-LOST-2
