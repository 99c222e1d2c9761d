"""The blocking client: call, wait, time out. May be shared between threads, and survives a fork.

A call is one write: its RPUSH, the question whether anybody serves, and the wait for the reply. While it waits it asks
again, every 3 s; when nobody serves any more it is judged: taken back, or answered, or lost with its worker.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from . import commands, dispatch, errors, messages
from ._link import ANSWER, MARGIN, Backoff, Clock, Link, LinkLost, LinkRefused, describe, factory, is_transient
from .commands import Commands
from .errors import ApplicationError, SabirError, application_classes
from .keys import NAMESPACE, Keys, check
from .messages import MAX_BYTES, MAX_DEPTH, Limits, Params

if TYPE_CHECKING:
    import redis as redis_py

TIMEOUT: Final = 30.0
"""The default time-out of a call, in seconds (SABIR-CALL-3)."""

MAX_QUEUE: Final = 100_000
"""The default bound of a queue, in elements (SABIR-QUEUE-1)."""
CALM: Final = commands.LEASE_MS / 1000
"""Seconds after an interruption in which no call is judged (SABIR-ALIVE-5)."""
ASK: Final = commands.ASK_MS / 1000
"""Seconds after which a waiting client asks for ``alive`` again (SABIR-ALIVE-3)."""

_LONGEST: Final = 1e9  # seconds (SABIR-CALL-4)
_SMALL: Final = 10_000  # bytes
_SILENCE: Final = 0.5  # seconds after its time-out at which a call on a silent connection has to end (SABIR-CALL-2)
_ATTEMPT: Final = 0.05  # seconds that an attempt has at least: one that is too short says less than the error before it
IDLE: Final = 0.01
"""Seconds after which a connection is looked at before it is used again (SABIR-LOST-6)."""

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


def bound(max_queue: int | None) -> int | None:
    """The bound of a queue. Raises ValueError for anything but None and an integer > 0."""
    if max_queue is not None and (type(max_queue) is not int or max_queue < 1):
        raise ValueError(f"max_queue: expected an integer > 0 or None, got {max_queue!r:.100}")
    return max_queue


class HasClock(Protocol):
    """What tells Redis's time."""

    def now_ms(self) -> int:
        """Redis's clock, in ms."""


_randoms: Final[list[str]] = []  # of 128 bits each, drawn ahead: asking the system for each costs a microsecond
_forks: Final[list[None]] = []  # one for each fork that led to this process
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_randoms.clear)
    os.register_at_fork(after_in_child=lambda: _forks.append(None))


def new_token(name: str) -> str:
    """A token with 64 random bits (SABIR-TOKEN-1)."""
    return f"{name}.{new_id()[:16]}"


def new_id() -> str:
    """An envelope id of 128 random bits (SABIR-ENVELOPE-2)."""
    try:
        return _randoms.pop()  # atomic
    except IndexError:
        drawn = os.urandom(16 * 256).hex()
        _randoms.extend([drawn[n : n + 32] for n in range(0, len(drawn), 32)])
        return new_id()


class Plan:
    """What all requests of one push share: the deadline, and what is inherited from the handler (SABIR-TIME-5)."""

    __slots__ = ("_latest", "_limits", "_requests", "_trace", "ends", "idempotent", "ids", "seconds")

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
        self.idempotent = idempotent
        self._trace = traceparent

    def elements(self, token: str, clock: HasClock) -> list[bytes]:
        """The requests as elements, with their deadline (SABIR-CALL-5). Raises what encode_request() raises."""
        deadline = _deadline(clock, self.ends - time.monotonic())
        if self._latest is not None:
            deadline = min(deadline, self._latest)
        elements: list[bytes] = []
        for id, request in zip(self.ids, self._requests, strict=True):
            method, params = request if len(request) == 2 else (*request, None)
            elements.append(
                messages.encode_request(id, token, method, params, deadline, self.idempotent, self._trace, self._limits)
            )
        return elements


def _deadline(clock: HasClock, seconds: float) -> int:
    """So many seconds from now, in ms of Redis's clock; never before now."""
    return clock.now_ms() + math.ceil(max(seconds, 0) * 1000)


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


class Retries:
    """When a call is sent again (SABIR-RETRY-1). ``seconds``: for all of it."""

    def __init__(self, seconds: float, idempotent: bool) -> None:
        handled = dispatch.current()
        left = None if handled is None else handled.time_left()
        self._ends = time.monotonic() + (seconds if left is None else min(seconds, left))
        self._idempotent = idempotent
        self._backoff = Backoff()

    def left(self) -> float:
        """Seconds that the next attempt has, more than 0."""
        return max(self._ends - time.monotonic(), 0.001)

    def pause(self, error: SabirError) -> float:
        """Seconds to wait after an attempt that has ended with ``error``, which is raised where there is to be no other."""
        left = self._ends - time.monotonic()
        may_retry = error.retryable or (self._idempotent and error.outcome == errors.MAY_HAVE_RUN)
        if not may_retry or left < 2 * _ATTEMPT:
            raise error
        return min(self._backoff.pause(), left / 2)


class Looks:
    """The pauses of wait_for_service(): from 20 ms, growing to 250 ms. ``seconds``: for all of it."""

    def __init__(self, service: str, seconds: float) -> None:
        self.ends = time.monotonic() + seconds
        """When the time is up (monotonic, s)."""
        self._service = service
        self._seconds = seconds
        self._next = 0.02
        self._known: errors.SabirError | None = None

    def pause(self, alive: Any) -> float | None:
        """Seconds to wait after an answer to EXISTS, or after the LinkLost instead of one; None: somebody serves.

        Raises NotQueued for an error reply that will not pass. Raises when the time is up what the last look found that was
        not cut short by it: ServiceUnavailable, or NotQueued where there was no answer.
        """
        if isinstance(alive, Exception) and not isinstance(alive, LinkLost) and not is_transient(alive):
            raise errors.NotQueued(f"Redis refused to tell whether {self._service} is served: {describe(alive)}")
        if alive == 1:
            return None
        left = self.ends - time.monotonic()
        if left > 0 or self._known is None or alive == 0:
            self._known = (
                errors.NotQueued(f"not known whether {self._service} is served: {describe(alive)}")
                if isinstance(alive, Exception)
                else errors.ServiceUnavailable(f"no worker serves {self._service}, for {self._seconds:.3f} s")
            )
        pause, self._next = self._next, min(self._next * 1.5, 0.25)
        if left <= pause:
            raise self._known
        return pause

    def cut_short(self, error: errors.NotQueued) -> None:
        """Note that there is no connection. Raises what the last look found, if connecting was cut short by the end."""
        if self._known is not None and time.monotonic() >= self.ends:
            raise self._known from error


def judged(
    keys: Keys, calls: Sequence[tuple[str, bytes]], answers: list[Any], own: dict[int, type[ApplicationError]]
) -> dict[str, messages.Response]:
    """What becomes of calls that nobody serves any more, by the answer to commands.judge() (SABIR-ALIVE-4).

    Each was pushed once at most: what is still in the queue and was never delivered has never started.
    """
    ended: dict[str, messages.Response] = {}
    for element in answers[-1] if isinstance(answers[-1], list) else ():
        reply = messages.decode_reply(element, own)
        if reply is not None:
            ended.setdefault(reply.id, reply)
    step = (len(answers) - 1) // len(calls)
    for n, (id, _) in enumerate(calls):
        if id not in ended:
            taken_back = step == 2 and answers[2 * n] == 1 and answers[2 * n + 1] == 0
            ended[id] = messages.Response(id, error=unserved(keys) if taken_back else lost(keys))
    return ended


def taken_back(keys: Keys, ids: Sequence[str], answers: list[Any], error: SabirError) -> dict[str, messages.Response]:
    """The requests that were still in the queue, by the answers to commands.take_back() for each, and how they end."""
    step = len(answers) // len(ids)
    return {
        id: messages.Response(id, error=error if step == 1 or answers[n * step + 1] == 0 else lost(keys))
        for n, id in enumerate(ids)
        if answers[n * step] == 1  # otherwise a worker has it, or Redis refuses: it is waited for
    }


def unserved(keys: Keys) -> SabirError:
    """The error of a call that was taken back, as nobody serves (SABIR-ALIVE-2, -4)."""
    return errors.ServiceUnavailable(f"no worker serves {keys.service}")


def overloaded(keys: Keys, max_queue: int | None) -> SabirError:
    """The error of a request that was taken back from a queue over its bound (SABIR-QUEUE-1)."""
    return errors.Overloaded(f"the queue of {keys.service} is longer than {max_queue}")


def lost(keys: Keys) -> SabirError:
    """The error of a call that nobody serves any more, and that may have run (SABIR-ALIVE-4)."""
    return errors.WorkerLost(f"the worker of {keys.service} that had the request was lost")


def not_answered(reason: Exception) -> SabirError:
    """The error of a request whose take-back has no answer (SABIR-ALIVE-6)."""
    return errors.ConnectionLost(f"connection to Redis lost while the request was taken back: {reason}")


def unconnected(trouble: LinkRefused | LinkLost | TimeoutError, backoff: Backoff, ends: float) -> float:
    """Seconds to wait before another connection is tried. ``ends``: of the time-out (monotonic, s).

    Raises NotQueued where Redis refuses for good, or the time-out passes first.
    """
    if isinstance(trouble, LinkRefused) and not is_transient(trouble.error):
        raise errors.NotQueued(f"Redis refused the connection: {trouble}") from trouble
    pause = backoff.pause()
    if ends - time.monotonic() <= pause:
        raise errors.NotQueued(f"no connection to Redis: {trouble}") from trouble
    return pause


class _Line:
    """A connection on which one call at a time waits."""

    __slots__ = ("clock", "forget", "link")

    def __init__(self, connect: Callable[[], Any]) -> None:
        self.clock = Clock()
        self.link = Link(connect, self.clock)
        self.forget: Commands = []
        """What removes the replies that were read, with the next write (SABIR-WAIT-2)."""

    @property
    def is_ready(self) -> bool:
        """Whether a request may be sent at once: connected, and the clock fresh."""
        return self.link.is_open and not self.clock.is_old()

    def connect(self, ends: float) -> None:
        """See to it that it is connected and its clock fresh. Raises NotQueued when the time-out passes."""
        backoff = Backoff()
        while True:
            left = min(max(ends - time.monotonic(), 0.001), ANSWER)
            try:
                if not self.link.is_open:
                    self.link.open(left)
                elif self.clock.is_old():
                    sent = time.monotonic()
                    answer = self.link.run(commands.clock(), left)[0]
                    if isinstance(answer, Exception):
                        self.link.close()
                        raise LinkRefused(answer)
                    self.clock.update(answer, sent)
            except (LinkRefused, LinkLost) as trouble:
                pause = unconnected(trouble, backoff, ends)
            else:
                return
            time.sleep(pause)

    def close(self) -> None:
        """Close the connection; what was read is removed before."""
        if self.link.is_open and not self.link.unread and self.forget:
            try:
                self.link.send(self.forget, _SILENCE)
            except LinkLost:
                pass
        self.link.close()


class _Exchange:
    """The requests of one push, on a line of their own: pushed, taken back, waited for, judged.

    ``token``: of the replies (SABIR-TOKEN-1), None: it is a notification. ``ends``: of the time-out (monotonic, s).
    """

    __slots__ = (
        "_asked", "_calm", "_elements", "_ends", "_forget", "_idempotent", "_keys", "_line", "_link", "_own", "_token",
        "ended", "missing",
    )  # fmt: skip

    def __init__(
        self,
        line: _Line,
        keys: Keys,
        token: str | None,
        requests: dict[str, bytes],
        ends: float,
        idempotent: bool,
        own: dict[int, type[ApplicationError]],
    ) -> None:
        self._line = line
        self._link = line.link
        self._keys = keys
        self._token = token
        self._elements = list(requests.values())
        self._ends = ends
        self._idempotent = idempotent
        self._own = own
        self.missing = requests
        """The requests that have not ended: id → element."""
        self.ended: dict[str, messages.Response] = {}
        self._asked = 0.0  # when alive was asked for (monotonic, s)
        self._calm = -math.inf  # since when the connection has not been interrupted
        self._forget: Commands = []  # what removes a reply that was read, while others are missing

    def _patience(self) -> float:
        """Seconds for an answer that does not block: the call ends soon after its time-out (SABIR-CALL-2)."""
        return min(max(self._ends + _SILENCE - time.monotonic(), 0.05), ANSWER)

    def _block(self, left: float) -> float:
        """Seconds to wait for a reply: until the time-out passes, or alive has to be asked for (SABIR-ALIVE-3)."""
        return max(min(left, self._asked + ASK - time.monotonic()), 0.001)

    def _end(self, ended: dict[str, messages.Response]) -> None:
        for id, response in ended.items():
            if self.missing.pop(id, None) is not None:
                self.ended[id] = response

    def _end_all(self, error: SabirError) -> None:
        self._end({id: messages.Response(id, error=error) for id in self.missing})

    # ------------------------------------------------------------------------------------------------ push

    def push(self, served: set[Keys], max_queue: int | None) -> float | None:
        """RPUSH, and behind it the question whether anybody serves (SABIR-ALIVE-1).

        ``served``: the services that somebody served a moment ago; the first wait goes out in the same write. Returns that
        wait's block time in seconds, None: none is under way. What must not stay in the queue is taken back.
        Raises NotQueued for an error reply (SABIR-LOST-5), ConnectionLost when nobody knows (SABIR-LOST-1).
        """
        line, link, keys, token = self._line, self._link, self._keys, self._token
        backoff = Backoff()
        while True:
            self._asked = time.monotonic()
            left = max(self._ends - self._asked, 0)
            cmds = [*line.forget, *commands.push(keys, self._elements)]
            block = None
            if token is not None:
                cmds += commands.ask_alive(keys)
                if keys in served:
                    block = max(min(left, ASK), 0.001)
                    cmds += commands.wait(keys, token, block * 1000)
            try:
                # What is small is taken at once, or the other side is gone.
                is_small = sum(map(len, self._elements)) < _SMALL
                link.send(cmds, min(left + _SILENCE, ANSWER) if is_small else left + _SILENCE)
                depth = link.read_some(len(line.forget) + 1, self._patience())[-1]
                line.forget = []
                is_over = type(depth) is int and max_queue is not None and depth > max_queue
                # Where it is over the bound, that counts, and the take-back reads the answers that are left.
                alive = 1 if token is None or is_over else link.read(self._patience())
            except LinkLost as away:
                raise errors.ConnectionLost(f"connection to Redis lost while the request was sent: {away}") from away
            if isinstance(depth, Exception):
                if block is not None or is_transient(depth):  # blocked, or only another connection helps (READONLY)
                    link.close()
                pause = backoff.pause()
                if not is_transient(depth) or self._ends - time.monotonic() <= pause:
                    raise errors.NotQueued(f"Redis refused the request: {describe(depth)}") from depth
                time.sleep(pause)
                line.connect(self._ends)
            elif is_over or alive == 0:  # an error reply is none: then it is as if somebody served
                served.discard(keys)
                if block is not None:
                    link.close()  # it is blocked; the look on it takes nothing
                self._take_back(overloaded(keys, max_queue) if is_over else unserved(keys))
                return None
            else:
                served.add(keys)
                return block

    def _take_back(self, error: SabirError) -> None:
        """Remove what was just pushed, and end with ``error`` what was still there (SABIR-ALIVE-2, -6, SABIR-QUEUE-1)."""
        link, ids = self._link, list(self.missing)
        cmds: Commands = []
        for id, element in self.missing.items():
            cmds += commands.take_back(self._keys, element, id if self._idempotent else None)
        try:
            if not link.is_open:
                link.open(self._patience())
            link.send(cmds, self._patience())
            answers = [link.read(self._patience()) for _ in range(link.unread)]
        except (LinkLost, LinkRefused) as reason:
            self._end_all(not_answered(reason))
        else:
            self._end(taken_back(self._keys, ids, answers[-len(cmds) :], error))

    # ------------------------------------------------------------------------------------------------ wait

    def collect(self, block: float | None, trouble: Exception | None) -> Exception | None:
        """Wait until nothing is missing or the time-out passes. Returns why nothing could be waited for at the end, if so.

        ``block``: of the wait under way, None: none is. ``trouble``: why the connection was lost, if it was.
        """
        link, keys, backoff = self._link, self._keys, Backoff()
        token = self._token or ""
        while self.missing:
            left = self._ends - time.monotonic()
            try:
                if block is None:
                    if left <= 0:
                        break
                    if not link.is_open:
                        link.open(min(left, ANSWER))  # and go on waiting on the same token (SABIR-LOST-2)
                        self._calm = time.monotonic()
                    if time.monotonic() - self._asked >= ASK:
                        self._ask(token)
                        continue
                    block = self._block(left)
                    link.send(self._forget + commands.wait(keys, token, block * 1000), ANSWER)
                    for _ in self._forget:
                        self._read(min(ANSWER, max(left, 0) + _SILENCE))
                    self._forget = []
                answer = self._read(min(block + MARGIN, max(left, 0) + _SILENCE))
            except (LinkLost, LinkRefused) as error:
                block, trouble = None, error
                link.drop(error)
                time.sleep(max(min(backoff.pause(), self._ends - time.monotonic()), 0))
                self._calm = time.monotonic()
                continue
            block, trouble = None, None
            backoff.reset()
            if answer is None:
                continue
            self._line.forget = commands.forget(keys, token)
            reply = messages.decode_reply(answer, self._own)
            if reply is not None and self.missing.pop(reply.id, None) is not None:  # any other is late (SABIR-REPLY-4)
                self.ended[reply.id] = reply
            if self.missing:
                self._forget = commands.forget_one(keys, token, answer)
        return trouble

    def _read(self, timeout: float) -> Any:
        answer = self._link.read(timeout)
        if isinstance(answer, Exception):
            raise LinkRefused(answer)
        return answer

    def _ask(self, token: str) -> None:
        """Ask whether anybody serves; if nobody does, judge what is missing (SABIR-ALIVE-3, -4, -5). Raises LinkLost."""
        link, keys = self._link, self._keys
        self._asked = time.monotonic()
        if link.run(commands.ask_alive(keys), self._patience())[0] != 0 or self._asked - self._calm < CALM:
            return
        try:
            looks = link.run(commands.look_alive(keys), self._patience())
            if looks[1] != 0 or any(isinstance(look, Exception) for look in looks):  # refused: as if somebody served
                link.run(commands.unwatch(), self._patience())
                return
            searches, calls = looks[2] <= commands.SEARCHED, list(self.missing.items())
            try:
                answer = link.run(commands.judge(keys, token, calls, searches), self._patience())[-1]
            except LinkLost as away:
                if not searches:
                    raise
                self._end_all(not_answered(away))
                return
        except BaseException:
            link.close()  # it watches
            raise
        if isinstance(answer, list):  # otherwise alive is back, or Redis refuses
            self._line.forget = commands.forget(keys, token)
            self._end(judged(keys, calls, answer, self._own))


class Client:
    """Calls methods of services.

    ``url``: of the Redis; ``redis``: a ``redis.Redis`` whose settings are used instead. ``namespace``: first part of all
    keys. ``name``: of this client, for ACLs and for handlers that ask who calls. ``timeout``: seconds for each call unless
    it says otherwise. ``errors``: subclasses of ApplicationError, raised for their codes. ``max_queue``: elements that a
    queue may hold, None: any number; over it, a request is taken back and ends with Overloaded (SABIR-QUEUE-1).
    ``max_bytes``, ``max_depth``: limits of what is sent (SABIR-LIMIT-1).

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
        max_queue: int | None = MAX_QUEUE,
        max_bytes: int = MAX_BYTES,
        max_depth: int = MAX_DEPTH,
    ) -> None:
        self._namespace = check("namespace", namespace)
        self._name = check("client", name)
        self._timeout = seconds(timeout, TIMEOUT)
        self._own = application_classes(errors)
        self._max_queue = bound(max_queue)
        self._limits = Limits(max_bytes, max_depth)
        self._connect = factory(url, redis)
        self._keys: dict[str, Keys] = {}
        self._served: set[Keys] = set()  # the services that somebody served when the last call of theirs was pushed
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

    def retry(
        self,
        service: str,
        method: str,
        params: Params = None,
        timeout: float | None = None,
        *,
        idempotent: bool = False,
        traceparent: str | None = None,
    ) -> Any:
        """As call(), and send it again, as a new request, after an error that lets it (SABIR-RETRY-1).

        That is one that is ``retryable`` or, if the call is idempotent, one whose outcome is "may have run". The pauses
        grow from 50 ms to 5 s. ``timeout``: seconds for all of it. Raises the last error.
        """
        retries = Retries(seconds(timeout, self._timeout), idempotent)
        while True:
            try:
                return self.call(service, method, params, retries.left(), idempotent=idempotent, traceparent=traceparent)
            except SabirError as error:
                pause = retries.pause(error)
            time.sleep(pause)

    def wait_for_service(self, service: str, timeout: float | None = None) -> None:
        """Wait until somebody serves. ``timeout``: seconds, None: the client's.

        Raises ServiceUnavailable when the time is up, NotQueued if Redis can't be reached.
        """
        keys = self._keys_of(service)
        looks = Looks(service, seconds(timeout, self._timeout))
        line = self._checkout()
        try:
            while True:
                try:
                    line.connect(looks.ends)
                except errors.NotQueued as error:
                    looks.cut_short(error)
                    raise
                try:
                    patience = min(max(looks.ends - time.monotonic(), 0.001), ANSWER)
                    alive: Any = line.link.run(commands.ask_alive(keys), patience)[0]
                except LinkLost as away:
                    alive = away
                pause = looks.pause(alive)
                if pause is None:
                    return
                time.sleep(pause)
        finally:
            self._checkin(line)

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

        It stays in the queue where nobody serves (SABIR-ALIVE-7). Raises NotQueued; Overloaded, when the queue is over the
        client's bound; ConnectionLost, when it may be queued (SABIR-LOST-1); ValueError or TypeError as call().
        """
        keys = self._keys_of(service)
        ends = time.monotonic() + seconds(timeout, self._timeout)
        id, element = notification(method, params, expires, idempotent, traceparent, self._limits)
        line = self._checkout()
        try:
            if not line.is_ready:
                element(line.clock)
            line.connect(ends)
            exchange = _Exchange(line, keys, None, {id: element(line.clock)}, ends, idempotent, self._own)
            exchange.push(self._served, self._max_queue)
        finally:
            self._checkin(line)
        if id in exchange.ended and (error := exchange.ended[id].error) is not None:
            raise error
        return id

    def close(self) -> None:
        """Close the idle connections, and remove what was read on them. The client may be used again."""
        if self._forked != len(_forks):
            self._forget_lines()
        while self._idle:
            self._idle.pop().close()

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
        self._forked = len(_forks)  # last: a thread that sees it uses the new list

    def _checkout(self) -> _Line:
        if self._forked != len(_forks):
            self._forget_lines()
        try:
            line = self._idle.pop()
        except IndexError:
            return _Line(self._connect)
        if time.monotonic() - line.link.used > IDLE and line.link.is_stale():
            line.link.close()
        return line

    def _checkin(self, line: _Line) -> None:
        if line.link.is_open and not line.link.unread:
            self._idle.append(line)
        else:  # lost, or left by an exception from outside (KeyboardInterrupt) with an answer to come
            line.link.close()

    def _exchange(self, keys: Keys, plan: Plan) -> list[messages.Response]:
        """Push the plan's requests and wait for a reply to each."""
        line = self._checkout()
        try:
            token = new_token(self._name)
            if not line.is_ready:
                plan.elements(token, line.clock)  # what the encoder refuses is refused before anything is sent
                line.connect(plan.ends)
            requests = dict(zip(plan.ids, plan.elements(token, line.clock), strict=True))
            exchange = _Exchange(line, keys, token, requests, plan.ends, plan.idempotent, self._own)
            block: float | None = None
            trouble: Exception | None = None
            try:
                block = exchange.push(self._served, self._max_queue)
            except errors.ConnectionLost as away:
                trouble = away
            trouble = exchange.collect(block, trouble)
        except errors.NotQueued as error:
            return [messages.Response(id, error=error) for id in plan.ids]
        finally:
            self._checkin(line)
        ended = exchange.ended
        return [ended.get(id) or messages.Response(id, error=no_reply(plan, trouble)) for id in plan.ids]


def no_reply(plan: Plan, trouble: Exception | None) -> SabirError:
    """The error of a call whose time-out has passed. ``trouble``: what Redis does at the moment; None: it works."""
    if trouble is None or isinstance(trouble, LinkRefused):
        why = f": Redis refuses to wait: {trouble}" if trouble else ""
        return errors.CallTimeout(f"no reply within {plan.seconds:.3f} s{why}")  # SABIR-CALL-6
    return errors.ConnectionLost(f"connection to Redis lost, and not back within the time-out: {trouble}")  # SABIR-LOST-2
