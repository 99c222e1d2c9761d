"""One connection to Redis, as both shells use it: several commands in one write, answers in order, nothing sent twice.

It stands on the lower layer of redis-py (Connection: TLS, authentication, Sentinel), because the upper one sends
commands again by itself when a connection breaks.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from . import commands
from .commands import Commands

DEFAULT_URL: Final = "redis://127.0.0.1:6379/0"
MARGIN: Final = 2.0
"""Seconds that an answer may take longer than the block time (SABIR-TRANSPORT-2)."""
CLOCK_AGE: Final = 60.0
"""Seconds for which an answer of TIME is good (SABIR-TIME-2)."""

CLOCK_ANSWER: Final = 5.0
"""Seconds that an answer of TIME may take."""

# Error replies, though some of them are a ConnectionError to redis-py.
REFUSALS: Final = (redis.ResponseError, redis.BusyLoadingError, redis.AuthenticationError)
_LOST: Final = (redis.ConnectionError, redis.TimeoutError, redis.InvalidResponse, OSError)
_TRANSIENT: Final = frozenset(("LOADING", "BUSY", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS"))


class LinkLost(Exception):
    """The connection broke or fell silent. ``sent``: commands may have reached Redis."""

    def __init__(self, reason: object, sent: bool) -> None:
        super().__init__(str(reason))
        self.sent = sent


class LinkRefused(Exception):
    """Redis answered the connection's first commands with an error (no authentication, say)."""

    def __init__(self, error: Exception) -> None:
        super().__init__(describe(error))
        self.error = error


def describe(error: Exception) -> str:
    """An error reply as Redis sent it."""
    code, text = getattr(error, "status_code", None), str(error)
    return text if code is None or text.startswith(str(code)) else f"{code} {text}"


def is_transient(error: Exception) -> bool:
    """Whether an error reply to a push is worth sending it again."""
    return describe(error).partition(" ")[0] in _TRANSIENT


class Clock:
    """Redis's clock, carried on by the monotonic one (SABIR-TIME-1)."""

    __slots__ = ("_asked", "_offset")

    def __init__(self) -> None:
        self._offset = 0.0
        self._asked = -math.inf

    def update(self, answer: Sequence[bytes], sent: float) -> None:
        """Take an answer of TIME to a question that was sent at ``sent`` (monotonic, s)."""
        now = time.monotonic()
        self._offset = int(answer[0]) + int(answer[1]) / 1e6 - (sent + now) / 2
        self._asked = now

    def now_ms(self) -> int:
        """Redis's clock, in ms."""
        return int((time.monotonic() + self._offset) * 1000)

    def is_old(self) -> bool:
        """Whether TIME has to be asked again (SABIR-TIME-2)."""
        return time.monotonic() - self._asked > CLOCK_AGE


class Backoff:
    """Growing pauses, with jitter: from 50 ms to 5 s (SABIR-WORKER-6)."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 0.05

    def pause(self) -> float:
        """Seconds to wait now."""
        pause = self._next * random.uniform(0.75, 1)  # noqa: S311 - no secret
        self._next = min(self._next * 2, 5.0)
        return pause

    def reset(self) -> None:
        """Begin again with the shortest pause."""
        self._next = 0.05


def factory(url: str | None, client: redis.Redis | None) -> Callable[[], Any]:
    """Makes connections: to a URL, or like those of an injected ``redis.Redis``."""
    pool = client.connection_pool if client is not None else redis.ConnectionPool.from_url(url or DEFAULT_URL)
    return lambda: _prepare(pool, Retry(NoBackoff(), 0))


def async_factory(url: str | None, client: redis.asyncio.Redis | None) -> Callable[[], Any]:
    """As factory(), for ``redis.asyncio``."""
    if client is not None:
        pool = client.connection_pool
    else:
        pool = redis.asyncio.ConnectionPool.from_url(url or DEFAULT_URL)
    retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
    return lambda: _prepare(pool, retry)


def _prepare(pool: Any, retry: Any) -> Any:
    # Like pool.make_connection(), which counts the connection against the pool's bound and keeps it: these are ours.
    kwargs = dict(pool.connection_kwargs, retry=retry, health_check_interval=0)
    kwargs.pop("maint_notifications_pool_handler", None)
    return pool.connection_class(**kwargs)


class Link:
    """A blocking connection."""

    def __init__(self, connect: Callable[[], Any], clock: Clock) -> None:
        self.connect = connect
        self._clock = clock
        self._connection: Any = None
        self.id: int | None = None
        """CLIENT ID of the connection, or of the one before; None where Redis does not tell."""
        self.used = 0.0
        """When the last answer came (monotonic, s)."""

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    def open(self, timeout: float) -> None:
        """Connect, end the connection before this one (SABIR-LOST-3), ask for TIME and CLIENT ID.

        ``timeout``: seconds. Raises LinkLost or LinkRefused.
        """
        connection = self.connect()
        old = self.id
        try:
            connection.socket_connect_timeout = timeout
            connection.connect()
        except REFUSALS as error:
            raise LinkRefused(error) from error
        except _LOST as error:
            raise LinkLost(error, sent=False) from error
        self._connection = connection
        hello: Commands = [*commands.clock(), ("CLIENT", "ID")]
        if old is not None:
            hello.insert(0, ("CLIENT", "KILL", "ID", str(old)))
        sent = time.monotonic()
        try:
            answers = self.run(hello, timeout)
        except LinkLost as lost:
            lost.sent = False  # nothing of the caller's
            raise
        if isinstance(answers[-2], Exception):
            self.close()
            raise LinkRefused(answers[-2])
        self._clock.update(answers[-2], sent)
        self.id = answers[-1] if isinstance(answers[-1], int) else None

    def is_stale(self) -> bool:
        """Whether an idle connection was closed by the other side, or holds what nobody asked for."""
        try:
            return bool(self._connection.can_read(0))
        except _LOST:
            return True

    def send(self, cmds: Commands) -> None:
        """Send commands in one write. Raises LinkLost."""
        try:
            packed = self._connection.pack_commands(cmds)
            self._connection.send_packed_command(packed if len(packed) == 1 else b"".join(packed), check_health=False)
        except _LOST as error:
            self.close()
            raise LinkLost(error, sent=True) from error
        except BaseException:
            self.close()
            raise

    def read(self, timeout: float) -> Any:
        """The next answer; an error reply is returned as an exception. ``timeout``: seconds. Raises LinkLost."""
        try:
            answer = self._connection.read_response(disable_decoding=True, timeout=timeout, disconnect_on_error=False)
        except REFUSALS as error:
            answer = error
        except _LOST as error:
            self.close()
            raise LinkLost(error, sent=True) from error
        except BaseException:
            self.close()  # an answer that nobody has read would be taken for the next one's
            raise
        self.used = time.monotonic()
        return answer

    def run(self, cmds: Commands, timeout: float) -> list[Any]:
        """send(), then read() an answer to each. ``timeout``: seconds, for each answer."""
        self.send(cmds)
        return [self.read(timeout) for _ in cmds]

    def close(self) -> None:
        """Close the connection; ``id`` stays known."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()


class AsyncLink:
    """As Link, for asyncio. Only one task at a time may use it."""

    def __init__(self, connect: Callable[[], Any], clock: Clock) -> None:
        self.connect = connect
        self._clock = clock
        self._connection: Any = None
        self.id: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    async def open(self, timeout: float) -> None:
        """Connect, end the connection before this one (SABIR-LOST-3), ask for TIME and CLIENT ID.

        ``timeout``: seconds. Raises LinkLost or LinkRefused.
        """
        connection = self.connect()
        old = self.id
        try:
            connection.socket_connect_timeout = timeout
            connection.socket_timeout = None  # the time-outs are run()'s
            async with asyncio.timeout(timeout):
                await connection.connect()
        except REFUSALS as error:
            raise LinkRefused(error) from error
        except (*_LOST, TimeoutError) as error:
            raise LinkLost(error, sent=False) from error
        self._connection = connection
        hello: Commands = [*commands.clock(), ("CLIENT", "ID")]
        if old is not None:
            hello.insert(0, ("CLIENT", "KILL", "ID", str(old)))
        sent = time.monotonic()
        try:
            answers = await self.run(hello, timeout)
        except LinkLost as lost:
            lost.sent = False
            raise
        if isinstance(answers[-2], Exception):
            await self.close()
            raise LinkRefused(answers[-2])
        self._clock.update(answers[-2], sent)
        self.id = answers[-1] if isinstance(answers[-1], int) else None

    async def is_stale(self) -> bool:
        """Whether a connection on which no answer is awaited was closed, or holds what nobody asked for."""
        try:
            return bool(await self._connection.can_read())
        except _LOST:
            return True

    async def ask_clock(self) -> None:
        """Ask TIME (SABIR-TIME-2). Raises LinkLost or LinkRefused."""
        sent = time.monotonic()
        answer = (await self.run(commands.clock(), CLOCK_ANSWER))[0]
        if isinstance(answer, Exception):
            raise LinkRefused(answer)
        self._clock.update(answer, sent)

    async def run(self, cmds: Commands, timeout: float) -> list[Any]:
        """Send commands in one write and read an answer to each; an error reply is returned as an exception.

        ``timeout``: seconds for all. Raises LinkLost.
        """
        connection = self._connection
        if connection is None:
            raise LinkLost("not connected", sent=False)
        answers: list[Any] = []
        try:
            async with asyncio.timeout(timeout):
                await connection.send_packed_command(connection.pack_commands(cmds), check_health=False)
                for _ in cmds:
                    try:
                        answer = await connection.read_response(
                            disable_decoding=True, timeout=math.inf, disconnect_on_error=False
                        )
                    except REFUSALS as error:
                        answer = error
                    answers.append(answer)
        except (*_LOST, TimeoutError) as error:
            await self.close()
            raise LinkLost(error, sent=True) from error
        except BaseException:
            await self.close()
            raise
        return answers

    async def close(self) -> None:
        """Close the connection; ``id`` stays known."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)
