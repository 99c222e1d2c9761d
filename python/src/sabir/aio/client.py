"""The asyncio client: calls of one loop turn leave in one write, and one reader per service wakes the callers.

Each service that is called has an inbox, with a connection and a token of its own, which looks for replies, asks whether
anybody serves, and judges what nobody serves any more. With its looks it pushes calls; what comes while Redis holds a look
blocked is pushed by another connection, which is that of all services, and takes back.
"""

from __future__ import annotations

import asyncio
import math
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
from ..client import (
    ASK,
    CALM,
    IDLE,
    MAX_QUEUE,
    TIMEOUT,
    Call,
    Looks,
    Plan,
    Retries,
    bound,
    judged,
    new_token,
    no_reply,
    not_answered,
    notification,
    overloaded,
    parameters,
    seconds,
    taken_back,
    unconnected,
    unserved,
)
from ..commands import Commands
from ..errors import ApplicationError, SabirError, application_classes
from ..keys import NAMESPACE, Keys, check
from ..messages import MAX_BYTES, MAX_DEPTH, Limits, Params, Response

if TYPE_CHECKING:
    import redis.asyncio as redis_py

_DRAIN: Final = 999
_ALL: Final = 1_000_000
_TRUST: Final = 30.0  # seconds for which what was read is known to lie at the head: half of the list's expiry
_POLL: Final = 0.05  # seconds between two looks at a list from which nothing is removed
_SILENCE: Final = 0.5  # seconds that closing waits for an answer
_SLOWEST: Final = 1e6  # bytes per second that a push may be as slow as
_ALONG: Final = 1 << 18  # bytes of requests that go with a look, at most: replies wait for them
_TURNS: Final = 3  # of the loop, in which who was answered may call again


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
    """A request that is to be pushed, and what became of it.

    ``inbox``: where the reply to a call comes, None: it is a notification.
    """

    __slots__ = ("element", "ends", "future", "id", "idempotent", "inbox", "is_over", "keys", "sent", "slot", "why")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        keys: Keys,
        id: str,
        element: bytes,
        ends: float,
        idempotent: bool,
        inbox: _Inbox | None = None,
    ) -> None:
        self.keys = keys
        self.id = id
        self.element = element
        self.ends = ends
        self.idempotent = idempotent
        self.inbox = inbox
        self.future: asyncio.Future[Response | None] = loop.create_future()
        """How a call ended, None: its time-out has passed. Of a notification: it is queued."""
        self.sent = False
        """Whether Redis may have it."""
        self.why = "the time-out has passed"
        """Why it has not been sent."""
        self.is_over = False
        """Whether the RPUSH was answered, or given up."""
        self.slot = 0
        """Where the expiry keeps it."""

    def resolve(self, ended: Response | None = None) -> None:
        """It is queued; or, with ``ended``, it was taken back."""
        self.is_over = True
        if self.inbox is not None:
            if ended is not None:
                self.inbox.end(ended)
        elif not self.future.done():
            if ended is None or ended.error is None:
                self.future.set_result(None)
            else:
                self.future.set_exception(ended.error)

    def fail(self, error: errors.NotQueued | LinkLost) -> None:
        """It was not queued; or, when the connection was lost, it may be: then a call is waited for (SABIR-LOST-1)."""
        self.is_over = True
        if self.inbox is None:
            if not self.future.done():
                self.future.set_exception(error)
        elif isinstance(error, errors.NotQueued):
            self.inbox.end(Response(self.id, error=error))

    def expire(self) -> None:
        """The time-out has passed."""
        if not self.future.done():
            self.future.set_result(None)


class _Expiry:
    """Ends the calls whose time-out has passed: with one timer for all of 10 ms, not with one for each."""

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self._due: dict[int, dict[_Push, None]] = {}

    def add(self, push: _Push) -> None:
        """Have it ended in time."""
        slot = push.slot = int(push.ends * 100) + 1
        pushes = self._due.get(slot)
        if pushes is None:
            pushes = self._due[slot] = {}
            asyncio.get_running_loop().call_later(slot / 100 - time.monotonic(), self._expire, slot)
        pushes[push] = None

    def remove(self, push: _Push) -> None:
        """It has ended."""
        pushes = self._due.get(push.slot)
        if pushes is not None:
            pushes.pop(push, None)
            if not pushes:
                pushes.clear()  # an empty dict keeps the room that it once needed, for as long as the longest time-out

    def _expire(self, slot: int) -> None:
        for push in self._due.pop(slot):
            push.expire()


class _Pusher:
    """Pushes requests, all of one loop turn in one write, and takes back what must not stay: one connection for all."""

    def __init__(self, connect: Callable[[], Any], clock: Clock, max_queue: int | None) -> None:
        self.clock = clock
        self.link = AsyncLink(connect, clock)
        self._max_queue = max_queue
        self._outgoing: list[_Push] = []
        self._task: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    async def is_served(self, keys: Keys) -> Any:
        """The answer to EXISTS, or the LinkLost instead of one."""
        try:
            async with self._lock:
                return (await self.link.run(commands.ask_alive(keys), ANSWER))[0]
        except LinkLost as away:
            return away

    async def close(self) -> None:
        """End pushing; close() the connection when nobody needs it any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _is_ready(self) -> bool:
        """Whether a request may be sent at once: connected, used a moment ago (SABIR-LOST-6), and the clock fresh."""
        return self.link.is_open and time.monotonic() - self.link.used < IDLE and not self.clock.is_old()

    async def connected(self, ends: float) -> None:
        """See to it that there is a connection and that its clock is fresh. Raises NotQueued when the time-out passes."""
        backoff = Backoff()
        while True:
            try:
                async with asyncio.timeout(max(ends - time.monotonic(), 0)), self._lock:
                    await self._open(min(max(ends - time.monotonic(), 0.001), ANSWER))
                    if self.clock.is_old():
                        await self.link.ask_clock()
            except (LinkRefused, LinkLost, TimeoutError) as trouble:
                pause = unconnected(trouble, backoff, ends)
            else:
                return
            await asyncio.sleep(pause)

    async def _open(self, timeout: float) -> None:
        """Connect, unless there is a connection that is not stale. ``timeout``: seconds. Raises LinkLost or LinkRefused."""
        await self.link.check_idle(IDLE)
        if not self.link.is_open:
            await self.link.open(timeout)

    async def calm(self) -> float:
        """Since when the connection that pushes has not been interrupted (monotonic, s); an idle one is looked at."""
        async with self._lock:
            await self.link.check_idle(IDLE)
        return self.link.calm

    def push(self, push: _Push) -> None:
        """Have a request pushed with all others of this loop turn."""
        self._outgoing.append(push)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._send(), name="sabir-push")

    async def _send(self) -> None:
        """Push what is outgoing: one write at a time, in it one RPUSH for each service (SABIR-CALL-1)."""
        try:
            while self._outgoing:
                ends = math.inf
                refused: errors.NotQueued | None = None
                if not self._is_ready():
                    ends = max(push.ends for push in self._outgoing)
                    try:
                        await self.connected(ends)
                    except errors.NotQueued as error:
                        refused = error
                # Some have given up, and are not sent any more; others have come.
                batch = [push for push in self._outgoing if not push.is_over]
                self._outgoing = [push for push in batch if refused is not None and push.ends > ends]
                for push in batch:
                    if refused is not None and push.ends <= ends:
                        push.fail(refused)
                if refused is None and batch:
                    await self._send_batch(batch)
        finally:
            self._task = None

    async def _send_batch(self, batch: list[_Push]) -> None:
        groups: dict[str, list[_Push]] = {}
        for push in batch:
            groups.setdefault(push.keys.requests, []).append(push)
        parts = [(pushes, _pushing(pushes)) for pushes in groups.values()]
        cmds = [command for _, part in parts for command in part]
        size = sum([len(push.element) for push in batch])
        sent = time.monotonic()
        answers: list[Any]
        async with self._lock:
            try:
                answers = await self.link.run(cmds, ANSWER + size / _SLOWEST)
            except LinkLost as lost:
                answers = [lost] * len(cmds)
        excess: list[tuple[_Push, SabirError]] = []
        following = iter(answers)
        for pushes, part in parts:
            depth, *alive = [next(following) for _ in part]
            excess += self.pushed(pushes, depth, alive[0] if alive else None, sent)
        await self.take_back(excess)
        if any(isinstance(answer, Exception) and is_transient(answer) for answer in answers):
            await self.link.close()

    def pushed(self, pushes: list[_Push], depth: Any, alive: Any, sent: float) -> list[tuple[_Push, SabirError]]:
        """Take the answers of an RPUSH and of the EXISTS behind it. Returns what has to be taken back, and why."""
        excess: list[tuple[_Push, SabirError]] = []
        is_over = type(depth) is int and self._max_queue is not None and depth > self._max_queue
        is_pushed = not isinstance(depth, Exception)
        may_be = is_pushed or (isinstance(depth, LinkLost) and depth.sent)
        for push in pushes:
            push.sent = may_be
            inbox = push.inbox
            if is_over:
                excess.append((push, overloaded(push.keys, self._max_queue)))
            elif not is_pushed:
                self._not_pushed(push, depth)
            elif inbox is None:  # SABIR-ALIVE-7
                push.resolve()
            elif alive == 0:
                excess.append((push, unserved(push.keys)))
            else:  # an error reply too: then it is as if somebody served
                inbox.asked = max(inbox.asked, sent)
                push.is_over = True
        return excess

    async def take_back(self, excess: list[tuple[_Push, SabirError]]) -> None:
        """Remove what was just pushed, and end what was still there (SABIR-ALIVE-2, -6, SABIR-QUEUE-1)."""
        if not excess:
            return
        parts = [commands.take_back(push.keys, push.element, push.id if push.idempotent else None) for push, _ in excess]
        try:
            async with self._lock:
                await self._open(ANSWER)
                answers = await self.link.run([c for part in parts for c in part], ANSWER)
        except (LinkLost, LinkRefused) as lost:
            error = not_answered(lost)
            for push, _ in excess:
                push.resolve(Response(push.id, error=error))
            return
        for (push, error), part in zip(excess, parts, strict=True):
            push.resolve(taken_back(push.keys, [push.id], answers[: len(part)], error).get(push.id))
            del answers[: len(part)]

    def _not_pushed(self, push: _Push, answer: Exception) -> None:
        """Take a lost connection, or the error reply to an RPUSH."""
        if push.is_over:
            return
        if push.sent and isinstance(answer, LinkLost):
            push.fail(answer)
        elif isinstance(answer, LinkLost) or is_transient(answer):
            push.why = describe(answer)
            asyncio.get_running_loop().call_later(0.1, self._again, push)  # until its time-out
        else:
            push.fail(errors.NotQueued(f"Redis refused the request: {describe(answer)}"))

    def _again(self, push: _Push) -> None:
        if not push.is_over:
            self.push(push)


class _Inbox:
    """Waits for the replies of one service, for as long as calls are pending."""

    def __init__(
        self,
        keys: Keys,
        name: str,
        link: AsyncLink,
        own: dict[int, type[ApplicationError]],
        pusher: _Pusher,
    ) -> None:
        self.keys = keys
        self.token = new_token(name)
        self.pending: dict[str, _Push] = {}
        self.trouble: Exception | None = None
        """Why there is no waiting at the moment; None: there is."""
        self.retired = False
        """An old connection may still be removing what it has read: new calls take another token (SABIR-WAIT-2)."""
        self.asked = -math.inf
        """When alive was asked for (monotonic, s)."""
        self._known, self._known_at = 0, 0.0  # how many replies at the head were read, and when
        self._link = link
        self._own = own
        self._pusher = pusher
        self._reader: asyncio.Task[None] | None = None
        self._outgoing: list[_Push] = []
        self._takes_along = False  # whether the next look is still to be written, and requests go with it
        self.loop = asyncio.get_running_loop()
        """Kept: asking for it is a system call."""

    def send(self, push: _Push) -> None:
        """Have a call pushed with all others of this loop turn, and wait for its reply."""
        if self._reader is None or self._reader.done():
            self.asked = time.monotonic()
            self._takes_along = self._link.is_open and not self.retired
            self._reader = self.loop.create_task(self._read(), name="sabir-inbox")
        self.pending[push.id] = push
        if self._takes_along:
            self._outgoing.append(push)
        else:
            self._pusher.push(push)

    def end(self, response: Response) -> None:
        """End a call."""
        push = self.pending.pop(response.id, None)
        if push is not None and not push.future.done():  # any other is late (SABIR-REPLY-4)
            push.future.set_result(response)

    async def _read(self) -> None:
        link, backoff = self._link, Backoff()
        while self.pending:
            try:
                if self._outgoing:
                    await link.check_idle(IDLE)
                if not link.is_open:  # and go on waiting on the same token (SABIR-LOST-2)
                    self._leave_behind()
                    self.retired |= not await link.open(ANSWER)
                if time.monotonic() - self.asked >= ASK:
                    self._leave_behind()
                    await self._ask()
                else:
                    await self._look()
                self._takes_along = not self.retired
                for _ in range(_TURNS):  # what was read is removed with the next look, and calls go with it
                    await asyncio.sleep(0)
                    if self.pending:
                        break
                else:
                    self._leave_behind()
                    await self._forget(ANSWER)
            except (LinkLost, LinkRefused) as error:
                self._leave_behind()
                self.trouble = error
                self._known = 0  # nobody knows what was removed: it is read again from the head
                await link.drop(error)
                await asyncio.sleep(backoff.pause())
                continue
            self.trouble = None
            backoff.reset()
        self._takes_along = False
        if self.retired:
            await link.close()

    def _leave_behind(self) -> None:
        """Have the other connection push what was to go with the next look, and what comes until there is one."""
        self._takes_along = False
        for push in self._outgoing:
            self._pusher.push(push)
        self._outgoing.clear()

    async def _look(self) -> None:
        """Read replies that have come, or wait for one. They stay until they have been read (SABIR-WAIT-1).

        In the same write, what was read is removed and calls are pushed.
        """
        link, now = self._link, time.monotonic()
        known = self._known if now - self._known_at < _TRUST and not self.retired else 0
        before = commands.forget_first(self.keys, self.token, known) if known else []
        block = max(self.asked + ASK - now, 0.001)
        look = commands.wait(self.keys, self.token, block * 1000)
        # What has gathered behind the first reply comes along in the same round trip.
        look += commands.drain(self.keys, self.token, _ALL if self.retired else _DRAIN)
        answers = await self._send_look(before, look, now)
        answers += await link.read(len(before) + len(look) - len(answers), block + MARGIN)
        *_, first, gathered = _accepted(answers)
        self._known = 0
        if first is None:
            return
        self._known, self._known_at = 1 + len(gathered), now
        for element in (first, *gathered):
            reply = messages.decode_reply(element, self._own)
            if reply is not None:
                self.end(reply)
        if self.retired:
            # A late LTRIM of the old connection may remove from the head what was read before it was lost. So that it takes
            # nothing else, all stays where it is until the token's calls have ended.
            await asyncio.sleep(_POLL)

    async def _send_look(self, before: Commands, look: Commands, now: float) -> list[Any]:
        """Send a look, and in front of it what stands before it, and what is outgoing. Returns answers read already.

        Those are the ones to what stands before, where anything was outgoing. Raises LinkLost.
        """
        pushes = [push for push in self._outgoing if not push.is_over]
        size = sum([len(push.element) for push in pushes])
        if size > _ALONG:
            self._leave_behind()
            pushes = []
        self._outgoing, self._takes_along = [], False
        push = _pushing(pushes) if pushes else []
        try:
            await self._link.send(before + push + look)
            if not push:
                return []
            *answers, depth, alive = await self._link.read(len(before) + len(push), ANSWER + size / _SLOWEST)
        except LinkLost as lost:
            self._pusher.pushed(pushes, lost, lost, now)
            raise
        await self._pusher.take_back(self._pusher.pushed(pushes, depth, alive, now))
        return answers

    async def _forget(self, timeout: float) -> None:
        """Remove what was read: nobody waits any more (SABIR-WAIT-2). ``timeout``: seconds. Raises as _run()."""
        known, self._known = self._known, 0
        if self.retired:
            await self._run(commands.forget(self.keys, self.token), timeout)
        elif known and time.monotonic() - self._known_at < _TRUST:
            await self._run(commands.forget_first(self.keys, self.token, known), timeout)

    async def _ask(self) -> None:
        """Ask whether anybody serves; if nobody does, judge what is pending (SABIR-ALIVE-3, -4, -5)."""
        link, keys = self._link, self.keys
        self.asked = time.monotonic()
        if (await link.run(commands.ask_alive(keys), ANSWER))[0] != 0:
            return
        if self.asked - max(link.calm, await self._pusher.calm()) < CALM:
            return
        looks = await link.run(commands.look_alive(keys), ANSWER)
        # A call whose RPUSH is not answered may not be queued yet; its own EXISTS is under way.
        calls = [(id, push.element) for id, push in self.pending.items() if push.is_over]
        refused = any(isinstance(look, Exception) for look in looks)  # then it is as if somebody served
        if refused or looks[1] != 0 or not calls:
            await self._run(commands.unwatch(), ANSWER)
            return
        searches = looks[2] <= commands.SEARCHED
        try:
            answer = (await link.run(commands.judge(keys, self.token, calls, searches), ANSWER))[-1]
        except LinkLost as away:
            if searches:  # SABIR-ALIVE-6
                error = not_answered(away)
                for id, _ in calls:
                    self.end(Response(id, error=error))
            raise
        if isinstance(answer, list):  # otherwise alive is back, or Redis refuses
            for response in judged(keys, calls, answer, self._own).values():
                self.end(response)
            if isinstance(answer[-1], list):
                self._known, self._known_at = len(answer[-1]), self.asked

    async def _run(self, cmds: Commands, timeout: float) -> list[Any]:
        """As AsyncLink.run(), but raises LinkRefused for an error reply."""
        return _accepted(await self._link.run(cmds, timeout))

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._link.is_open and not self.pending:
            try:
                await self._forget(_SILENCE)
            except (LinkLost, LinkRefused):
                pass
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
        max_queue: int | None = MAX_QUEUE,
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
        self._pusher = _Pusher(self._connect, self._clock, bound(max_queue))
        self._inboxes: dict[str, _Inbox] = {}
        self._retired: list[_Inbox] = []
        self._expiry = _Expiry()

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
        inbox = self._inbox(service)
        if not self._pusher.link.is_open or self._clock.is_old():
            await self._connect_first(plan, inbox)
        (push,) = self._begin(plan, inbox)
        try:
            outcome = await push.future
        finally:
            self._leave(push)
        if outcome is None:
            raise _unanswered(plan, push)
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
        inbox = self._inbox(service)
        if not self._pusher.link.is_open or self._clock.is_old():
            try:
                await self._connect_first(plan, inbox)
            except errors.NotQueued as error:
                return [error] * len(plan.ids)
        pushes = self._begin(plan, inbox)
        results: list[Any] = []
        try:
            for push in pushes:
                outcome = await push.future or Response(push.id, error=_unanswered(plan, push))
                results.append(outcome.result if outcome.error is None else outcome.error)
        finally:
            for push in pushes:
                self._leave(push)
        return results

    async def retry(
        self,
        service: str,
        method: str,
        params: Params = None,
        timeout: float | None = None,
        *,
        idempotent: bool = False,
        traceparent: str | None = None,
    ) -> Any:
        """Call, and call again after an error that lets it (SABIR-RETRY-1); as ``sabir.Client.retry()``."""
        retries = Retries(seconds(timeout, self._timeout), idempotent)
        while True:
            try:
                return await self.call(
                    service, method, params, retries.left(), idempotent=idempotent, traceparent=traceparent
                )
            except SabirError as error:
                pause = retries.pause(error)
            await asyncio.sleep(pause)

    async def wait_for_service(self, service: str, timeout: float | None = None) -> None:
        """Wait until somebody serves; arguments and errors as ``sabir.Client.wait_for_service()``."""
        keys = Keys(self._namespace, service)
        looks = Looks(service, seconds(timeout, self._timeout))
        while True:
            try:
                await self._pusher.connected(looks.ends)
            except errors.NotQueued as error:
                looks.cut_short(error)
                raise
            # It goes on when the time is up: the link is everybody's.
            look = asyncio.ensure_future(self._pusher.is_served(keys))
            await asyncio.wait({look}, timeout=max(looks.ends - time.monotonic(), 0.001))
            pause = looks.pause(look.result() if look.done() else LinkLost("no answer", sent=True))
            if pause is None:
                return
            await asyncio.sleep(pause)

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
        await self._pusher.connected(ends)
        push = _Push(asyncio.get_running_loop(), keys, id, element(self._clock), ends, idempotent)
        self._pusher.push(push)
        lost: Exception | None = None
        async with _until(ends):
            try:
                await push.future
            except LinkLost as error:
                lost = error
            else:
                return id
        if push.sent:
            raise errors.ConnectionLost(f"connection to Redis lost while the request was sent: {lost or 'no answer'}")
        raise errors.NotQueued(f"the request could not be queued: {push.why}")

    async def close(self) -> None:
        """Close the connections. Calls under way end with their time-out."""
        await self._pusher.close()
        for inbox in (*self._inboxes.values(), *self._retired):
            await inbox.close()
        self._inboxes.clear()
        self._retired.clear()
        await self._pusher.link.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ------------------------------------------------------------------------------------------------ inside

    def _inbox(self, service: str) -> _Inbox:
        inbox = self._inboxes.get(service)
        if inbox is None or inbox.retired:
            if inbox is not None:
                self._retired = [old for old in (*self._retired, inbox) if old.pending]
            keys = Keys(self._namespace, service)
            inbox = _Inbox(keys, self._name, AsyncLink(self._connect, self._clock), self._own, self._pusher)
            self._inboxes[service] = inbox
        return inbox

    async def _connect_first(self, plan: Plan, inbox: _Inbox) -> None:
        """Raises NotQueued; and what the encoder refuses, before anything is sent."""
        plan.elements(inbox.token, self._clock)
        await self._pusher.connected(plan.ends)

    def _begin(self, plan: Plan, inbox: _Inbox) -> list[_Push]:
        """Have calls pushed with all others of this loop turn; each has to be left in the end."""
        elements = plan.elements(inbox.token, self._clock)  # all, before one of them is sent
        pushes: list[_Push] = []
        for id, element in zip(plan.ids, elements, strict=True):
            push = _Push(inbox.loop, inbox.keys, id, element, plan.ends, plan.idempotent, inbox)
            inbox.send(push)
            self._expiry.add(push)
            pushes.append(push)
        return pushes

    def _leave(self, push: _Push) -> None:
        """Nobody waits for a call any more."""
        push.is_over = True
        self._expiry.remove(push)
        if push.inbox is not None:
            push.inbox.pending.pop(push.id, None)


def _unanswered(plan: Plan, push: _Push) -> SabirError:
    """The error of a call whose time-out has passed."""
    if not push.sent:  # SABIR-LOST-5
        return errors.NotQueued(f"the request could not be queued: {push.why}")
    return no_reply(plan, push.inbox.trouble if push.inbox else None)


def _pushing(pushes: list[_Push]) -> Commands:
    """What pushes requests to one service, which count as sent; behind a call, alive is asked for (SABIR-ALIVE-1)."""
    cmds = commands.push(pushes[0].keys, [push.element for push in pushes])
    for push in pushes:
        push.sent = True
    if any(push.inbox is not None for push in pushes):
        cmds += commands.ask_alive(pushes[0].keys)
    return cmds


def _accepted(answers: list[Any]) -> list[Any]:
    """The answers. Raises LinkRefused if one is an error reply."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise LinkRefused(answer)
    return answers


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
