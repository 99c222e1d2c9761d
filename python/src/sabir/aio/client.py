"""The asyncio client: calls of one loop turn leave in one write, and one reader per service wakes the callers.

One connection pushes for all services; each service that is called has an inbox, with a connection and a token of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from .. import commands, errors, messages
from .._link import (
    ANSWER,
    DEFAULT_URL,
    MARGIN,
    AsyncLink,
    Backoff,
    Clock,
    LinkLost,
    LinkRefused,
    async_factory,
    describe,
    is_transient,
)
from ..client import TIMEOUT, Call, Plan, new_token, no_reply, notification, parameters, seconds
from ..errors import ApplicationError, application_classes
from ..keys import NAMESPACE, Keys, check
from ..messages import MAX_BYTES, MAX_DEPTH, Limits, Params, Response

if TYPE_CHECKING:
    import redis.asyncio as redis_py

_BLOCK: Final = 5.0
_DRAIN: Final = 1_000
_SLOWEST: Final = 1e6  # bytes per second that a push may be as slow as


class Service:
    """A service's methods as local ones: ``await calc.add(1, 2)``, ``await calc.add(a=1, b=2)``.

    Every name but Python's own ``__dunders__`` is a remote method; Client.call() reaches those too.
    """

    __slots__ = ("__call",)

    def __init__(self, call: Callable[[str, Params], Awaitable[Any]]) -> None:
        self.__call = call

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        call = self.__call

        def method(*args: Any, **kwargs: Any) -> Awaitable[Any]:
            return call(name, parameters(name, args, kwargs))

        return method


class _Push:
    """One RPUSH to be: elements of one service, and the future that its answer resolves."""

    __slots__ = ("done", "elements", "ends", "keys", "sent", "why")

    def __init__(self, keys: Keys, elements: list[bytes], ends: float) -> None:
        self.keys = keys
        self.elements = elements
        self.ends = ends
        self.sent = False
        """Whether Redis may have it."""
        self.why = "the time-out has passed"
        """Why it has not been sent."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class _Inbox:
    """Waits for the replies of one service, for as long as calls are pending."""

    def __init__(self, keys: Keys, name: str, link: AsyncLink, own: dict[int, type[ApplicationError]]) -> None:
        self.keys = keys
        self.token = new_token(name)
        self.pending: dict[str, asyncio.Future[Response]] = {}
        self.trouble: Exception | None = None
        """Why there is no waiting at the moment; None: there is."""
        self.retired = False
        """An old connection may still be waiting for this token: new calls take another one (SABIR-TOKEN-1)."""
        self._drains = True
        self._link = link
        self._own = own
        self._reader: asyncio.Task[None] | None = None

    def wait_for(self, id: str) -> asyncio.Future[Response]:
        """A future for the reply to a call that is about to be pushed."""
        future = asyncio.get_running_loop().create_future()
        self.pending[id] = future
        if self._reader is None or self._reader.done():
            self._reader = asyncio.get_running_loop().create_task(self._read(), name="sabir-inbox")
        return future

    async def _read(self) -> None:
        backoff = Backoff()
        while self.pending:
            try:
                if not self._link.is_open:  # and go on waiting on the same token (SABIR-LOST-2)
                    self.retired |= not await self._link.open(ANSWER)
                # What has gathered behind the first reply comes along in the same round trip.
                drain = commands.drain(self.keys, self.token, _DRAIN) if self._drains else []
                wait = commands.wait(self.keys, self.token, _BLOCK * 1000)
                first, *more = await self._link.run(wait + drain, _BLOCK + MARGIN)
                if isinstance(first, Exception):
                    raise LinkRefused(first)
            except (LinkLost, LinkRefused) as error:
                self.trouble = error
                await self._link.drop(error)
                await asyncio.sleep(backoff.pause())
                continue
            self.trouble = None
            backoff.reset()
            gathered = more[0] if more else None
            if isinstance(gathered, Exception):  # an ACL may lack LPOP: then each reply takes a round trip
                self._drains, gathered = False, None
            for element in itertools.chain(first[1:] if first else (), gathered or ()):
                reply = messages.decode_reply(element, self._own)
                future = self.pending.pop(reply.id, None) if reply else None
                if future is not None and not future.done():  # any other is late (SABIR-REPLY-4)
                    future.set_result(reply)  # type: ignore[arg-type]
        if self.retired:
            await self._link.close()

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self._link.close()


class Client:
    """Calls methods of services, from one event loop.

    The arguments are those of ``sabir.Client``; ``redis`` is a ``redis.asyncio.Redis``. Not to be used across a fork.
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
        self._connect = async_factory(url or DEFAULT_URL, redis)
        self._clock = Clock()
        self._link = AsyncLink(self._connect, self._clock)
        self._inboxes: dict[str, _Inbox] = {}
        self._retired: list[_Inbox] = []
        self._outgoing: list[_Push] = []
        self._pusher: asyncio.Task[None] | None = None
        self._link_lock = asyncio.Lock()

    def service(self, service: str, *, timeout: float | None = None, idempotent: bool = False) -> Service:
        """The methods of a service as local ones. ``timeout``: seconds for each call, None: the client's.

        Raises ValueError for a service name outside its grammar.
        """
        Keys(self._namespace, service)
        limit = seconds(timeout, self._timeout)

        def call(method: str, params: Params) -> Awaitable[Any]:
            return self.call(service, method, params, timeout=limit, idempotent=idempotent)

        return Service(call)

    async def call(
        self,
        service: str,
        method: str,
        params: Params = None,
        timeout: float | None = None,
        *,
        idempotent: bool = False,
        traceparent: str | None = None,
    ) -> Any:
        """Call a method and return its result; arguments and errors as ``sabir.Client.call()``."""
        plan = Plan([(method, params)], seconds(timeout, self._timeout), self._limits, idempotent, traceparent)
        outcome = (await self._exchange(service, plan))[0]
        if outcome.error is not None:
            raise outcome.error
        return outcome.result

    async def many(
        self, service: str, calls: Sequence[Call], timeout: float | None = None, *, idempotent: bool = False
    ) -> list[Any]:
        """Many calls at once; arguments, results and errors as ``sabir.Client.many()``."""
        if not calls:
            return []
        plan = Plan(calls, seconds(timeout, self._timeout), self._limits, idempotent)
        outcomes = await self._exchange(service, plan)
        return [outcome.result if outcome.error is None else outcome.error for outcome in outcomes]

    async def notify(
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
        """Send a notification and return its id; arguments and errors as ``sabir.Client.notify()``."""
        keys = Keys(self._namespace, service)
        ends = time.monotonic() + seconds(timeout, self._timeout)
        id, element = notification(method, params, expires, idempotent, traceparent, self._limits)
        element(self._clock)
        await self._connected(ends)
        push = self._push(keys, [element(self._clock)], ends)
        lost: Exception | None = None
        async with _until(ends):
            try:
                await push.done
            except LinkLost as error:
                lost = error
            else:
                return id
        if push.sent:
            raise errors.ConnectionLost(f"connection to Redis lost while the request was sent: {lost or 'no answer'}")
        raise errors.NotQueued(f"the request could not be queued: {push.why}")

    async def close(self) -> None:
        """Close the connections. Calls under way end with their time-out."""
        if self._pusher is not None:
            self._pusher.cancel()
            await asyncio.gather(self._pusher, return_exceptions=True)
        for inbox in (*self._inboxes.values(), *self._retired):
            await inbox.close()
        self._inboxes.clear()
        self._retired.clear()
        await self._link.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ------------------------------------------------------------------------------------------------ inside

    async def _exchange(self, service: str, plan: Plan) -> list[Response]:
        inbox = self._inboxes.get(service)
        if inbox is None or inbox.retired:
            if inbox is not None:
                self._retired = [old for old in (*self._retired, inbox) if old.pending]
            keys = Keys(self._namespace, service)
            inbox = _Inbox(keys, self._name, AsyncLink(self._connect, self._clock), self._own)
            self._inboxes[service] = inbox
        if not self._link.is_open or self._clock.is_old():
            plan.elements(inbox.token, self._clock)  # what the encoder refuses is refused before anything is sent
            try:
                await self._connected(plan.ends)
            except errors.NotQueued as error:
                return [Response(id, error=error) for id in plan.ids]
        elements = plan.elements(inbox.token, self._clock)
        futures = [inbox.wait_for(id) for id in plan.ids]
        push = self._push(inbox.keys, elements, plan.ends)
        try:
            async with _until(plan.ends):
                try:
                    await push.done
                except errors.NotQueued as error:
                    return [Response(id, error=error) for id in plan.ids]
                except LinkLost:
                    pass  # the requests may be in the queue: wait (SABIR-LOST-1)
                for future in futures:
                    await future
            missing = no_reply(plan, inbox.trouble)
            if not push.sent:  # SABIR-LOST-5
                missing = errors.NotQueued(f"the request could not be queued: {push.why}")
            return [
                # the time-out cancels what was awaited
                future.result() if future.done() and not future.cancelled() else Response(id, error=missing)
                for id, future in zip(plan.ids, futures, strict=True)
            ]
        finally:
            push.done.cancel()
            for id in plan.ids:
                inbox.pending.pop(id, None)

    async def _connected(self, ends: float) -> None:
        """See to it that there is a connection and that its clock is fresh. Raises NotQueued when the time-out passes."""
        backoff = Backoff()
        while True:
            try:
                async with asyncio.timeout(max(ends - time.monotonic(), 0)), self._link_lock:
                    if self._link.is_open and await self._link.is_stale():
                        await self._link.close()
                    if not self._link.is_open:
                        await self._link.open(min(max(ends - time.monotonic(), 0.001), ANSWER))
                    elif self._clock.is_old():
                        await self._link.ask_clock()
            except LinkRefused as refused:
                if not is_transient(refused.error):
                    raise errors.NotQueued(f"Redis refused the connection: {refused}") from refused
                reason: Exception = refused
            except (LinkLost, TimeoutError) as lost:
                reason = lost
            else:
                return
            pause = backoff.pause()
            if ends - time.monotonic() <= pause:
                raise errors.NotQueued(f"no connection to Redis: {reason}") from reason
            await asyncio.sleep(pause)

    def _push(self, keys: Keys, elements: list[bytes], ends: float) -> _Push:
        """Have elements pushed with all others of this loop turn."""
        push = _Push(keys, elements, ends)
        self._outgoing.append(push)
        if self._pusher is None:
            self._pusher = asyncio.get_running_loop().create_task(self._send(), name="sabir-push")
        return push

    async def _send(self) -> None:
        """Push what is outgoing: one write at a time, in it one RPUSH for each service (SABIR-CALL-1)."""
        try:
            while self._outgoing:
                ends = max(push.ends for push in self._outgoing)
                refused: errors.NotQueued | None = None
                try:
                    await self._connected(ends)
                except errors.NotQueued as error:
                    refused = error
                # Some have given up, and are not sent any more; others have come.
                batch = [push for push in self._outgoing if not push.done.done()]
                self._outgoing = [push for push in batch if refused is not None and push.ends > ends]
                for push in batch:
                    if refused is not None and push.ends <= ends:
                        push.done.set_exception(refused)
                if refused is None and batch:
                    await self._send_batch(batch)
        finally:
            self._pusher = None

    async def _send_batch(self, batch: list[_Push]) -> None:
        groups: dict[str, list[_Push]] = {}
        for push in batch:
            push.sent = True
            groups.setdefault(push.keys.requests, []).append(push)
        cmds = [c for g in groups.values() for c in commands.push(g[0].keys, [e for push in g for e in push.elements])]
        size = sum(len(element) for push in batch for element in push.elements)
        answers: list[Any]
        try:
            async with self._link_lock:
                answers = await self._link.run(cmds, ANSWER + size / _SLOWEST)
        except LinkLost as lost:
            answers = [lost] * len(groups)
        for answer, pushes in zip(answers, groups.values(), strict=True):
            for push in pushes:
                self._pushed(push, answer)
        if any(isinstance(answer, Exception) and is_transient(answer) for answer in answers):
            await self._link.close()

    def _pushed(self, push: _Push, answer: Any) -> None:
        """Take the answer of an RPUSH."""
        push.sent = not isinstance(answer, Exception) or (isinstance(answer, LinkLost) and answer.sent)
        if push.done.done():
            return
        if push.sent:
            if isinstance(answer, Exception):
                push.done.set_exception(answer)
            else:
                push.done.set_result(None)
        elif isinstance(answer, LinkLost) or is_transient(answer):
            push.why = describe(answer)
            asyncio.get_running_loop().call_later(0.1, self._again, push)  # until its time-out
        else:
            push.done.set_exception(errors.NotQueued(f"Redis refused the request: {describe(answer)}"))

    def _again(self, push: _Push) -> None:
        if not push.done.done():
            self._outgoing.append(push)
            if self._pusher is None:
                self._pusher = asyncio.get_running_loop().create_task(self._send(), name="sabir-push")


class _until:
    """As asyncio.timeout_at(), on the monotonic clock, and without an exception when the time has come."""

    def __init__(self, ends: float) -> None:
        self._timeout = asyncio.timeout(max(ends - time.monotonic(), 0))

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *args: Any) -> bool:
        try:
            await self._timeout.__aexit__(*args)
        except TimeoutError:
            return True
        return False
