"""One connection to Redis, as both shells use it: several commands in one write, answers in order, nothing sent twice.

It stands on the lower layer of redis-py (Connection: TLS, authentication, Sentinel), because the upper one sends
commands again by itself when a connection breaks. Once connected, it writes and reads by itself: what redis-py does for
each answer costs more than everything else of a call.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import hiredis
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

ANSWER: Final = 5.0
"""Seconds that Redis may take for an answer that does not block, and to connect."""

# Error replies, though some of them are a ConnectionError to redis-py.
REFUSALS: Final = (redis.ResponseError, redis.BusyLoadingError, redis.AuthenticationError)
_LOST: Final = (redis.ConnectionError, redis.TimeoutError, redis.InvalidResponse, OSError)
_TRANSIENT: Final = frozenset(("LOADING", "BUSY", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS"))
# redis-py takes these codes off the text, and before 8.0 keeps them nowhere.
_CODES: Final[dict[type, str]] = {
    redis.BusyLoadingError: "LOADING",
    redis.ReadOnlyError: "READONLY",
    redis.OutOfMemoryError: "OOM",
    redis.exceptions.NoScriptError: "NOSCRIPT",
    redis.exceptions.NoPermissionError: "NOPERM",
    redis.exceptions.MasterDownError: "MASTERDOWN",
    redis.exceptions.ClusterDownError: "CLUSTERDOWN",
    redis.exceptions.TryAgainError: "TRYAGAIN",
}
_CHUNK: Final = 1 << 16  # bytes of one read, at most
_LARGE_CHUNK: Final = 1 << 20  # where there is more than that
_BUFFER: Final = 1 << 18  # bytes of one read with asyncio, at most
_HAS_TIMEVAL: Final = sys.platform in ("linux", "darwin")  # whose SO_RCVTIMEO takes one of two longs
_NONE_YET: Final = object()
_pack: Final[Callable[[Any], bytes]] = hiredis.pack_command
_HELLO: Final[Commands] = [*commands.clock(), ("CLIENT", "INFO")]
_WHO: Final = re.compile(rb"\bid=([0-9]+) addr=(\S+)")


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
    code, text = getattr(error, "status_code", None) or _CODES.get(type(error)), str(error)
    return text if code is None or text.startswith(code) else f"{code} {text}"


def is_transient(error: Exception) -> bool:
    """Whether an error reply to a push is worth sending it again."""
    return describe(error).partition(" ")[0] in _TRANSIENT


def _refusal(error: BaseException) -> Exception | None:
    """The error reply behind an exception (a Sentinel's connection hides READONLY); None: the connection is lost."""
    cause = error.__context__ if isinstance(error.__context__, redis.ReadOnlyError) else error
    return cause if isinstance(cause, REFUSALS) else None


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


def _packed(cmds: Commands) -> bytes:
    """Commands as Redis reads them. One that is repeated is packed once."""
    packed: list[bytes] = []
    last: object = None
    data = b""
    for command in cmds:
        if command is not last:
            last, data = command, _pack(command)
        packed.append(data)
    return b"".join(packed)


def _new_reader() -> Any:
    """Reads answers as bytes; error replies as exceptions with the text that Redis sent."""
    return hiredis.Reader(notEnoughData=_NONE_YET, replyError=redis.ResponseError)


class _Hello:
    """What both kinds of link send first, and what they learn of it."""

    def __init__(self, connect: Callable[[], Any], clock: Clock) -> None:
        self.connect = connect
        self._clock = clock
        self._connection: Any = None
        self._opened = False
        self.who: tuple[str, str] | None = None
        """The id and the address of the connection as Redis has them, or of the one before; None where it does not tell."""

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    def _greeted(self, answers: list[Any], sent: float) -> tuple[str, str] | None:
        """Take the answers to _HELLO. Returns who the new connection is. Raises LinkRefused."""
        time_answer, info = answers
        if isinstance(time_answer, Exception):
            raise LinkRefused(time_answer)
        self._clock.update(time_answer, sent)
        found = _WHO.search(info) if isinstance(info, bytes) else None
        return (found[1].decode(), found[2].decode()) if found else None

    def _kill(self) -> Commands:
        """What ends the connection before this one; nothing, if there is none or it is not known.

        Not by the id alone: after a restart of the server it may be somebody else's.
        """
        return [("CLIENT", "KILL", "ID", self.who[0], "ADDR", self.who[1])] if self.who is not None else []

    def _settled(self, new: tuple[str, str] | None, kill: Commands, answers: list[Any]) -> bool:
        """Take the answer to the kill. Returns whether the connection before this one has ended for sure."""
        ended = isinstance(answers[0], int) if kill else not self._opened
        self._opened, self.who = True, new
        return ended


class Link(_Hello):
    """A blocking connection."""

    unread = 0
    """Answers that were asked for and not read yet."""
    used = 0.0
    """When the last answer came (monotonic, s)."""
    _timeout: float | None = None  # the socket's, as it was set last
    _sock: Any = None
    _chunk = _CHUNK
    _answers: Any = None  # a hiredis.Reader

    def open(self, timeout: float, *, patient: bool = False) -> None:
        """Connect, end the connection before this one, ask for TIME (SABIR-TIME-2).

        ``timeout``: seconds. ``patient``: where the old connection could not be ended, wait for one block time
        (SABIR-LOST-3). Raises LinkLost or LinkRefused.
        """
        ends = time.monotonic() + timeout
        connection = self.connect()
        connection.socket_connect_timeout = connection.socket_timeout = max(timeout, 0.001)
        try:
            connection.connect()
        except (*REFUSALS, *_LOST) as error:
            refused = _refusal(error)
            raise LinkRefused(refused) if refused else LinkLost(error, sent=False) from error
        self._connection, self.unread, self._timeout = connection, 0, None
        self._sock, self._answers = connection._sock, _new_reader()
        sent = time.monotonic()
        try:
            who = self._greeted(self.run(_HELLO, ends - sent), sent)
            kill = self._kill()
            ended = self._settled(who, kill, self.run(kill, ends - time.monotonic()) if kill else [])
        except LinkLost as lost:
            lost.sent = False  # nothing of the caller's
            raise
        except LinkRefused:
            self.close()
            raise
        if patient and not ended:
            time.sleep(commands.TAKE_BLOCK_MS / 1000)

    def is_stale(self) -> bool:
        """Whether an idle connection was closed by the other side, or holds what nobody asked for (SABIR-LOST-6)."""
        self._timeout = None  # redis-py sets its own
        try:
            return bool(self._connection.can_read(0))
        except _LOST:
            return True

    def send(self, cmds: Commands, timeout: float) -> None:
        """Send commands in one write. ``timeout``: seconds. Raises LinkLost."""
        sock = self._sock
        if sock is None:
            raise LinkLost("not connected", sent=True)
        try:
            self.unread += len(cmds)
            if timeout != self._timeout:
                self._patience(timeout)
            sock.sendall(_packed(cmds))
        except _LOST as error:
            self.close()
            raise LinkLost("timed out" if isinstance(error, BlockingIOError) else error, sent=True) from error

    def read(self, timeout: float) -> Any:
        """The next answer; an error reply is returned as an exception. ``timeout``: seconds. Raises LinkLost."""
        return self.read_some(1, timeout)[0]

    def read_some(self, count: int, timeout: float) -> list[Any]:
        """The next answers; error replies are returned as exceptions. ``timeout``: seconds for each. Raises LinkLost."""
        reader = self._answers
        if reader is None:
            raise LinkLost("not connected", sent=True)
        answers: list[Any] = []
        try:
            while len(answers) < count:
                answer = reader.gets()
                if answer is _NONE_YET:
                    if timeout != self._timeout:
                        self._patience(timeout)
                    data = self._sock.recv(self._chunk)
                    if len(data) == self._chunk:
                        self._chunk = _LARGE_CHUNK
                    if not data:
                        raise redis.ConnectionError("Connection closed by server.")
                    reader.feed(data)
                elif type(answer) is not hiredis.PushNotification:
                    answers.append(answer)
        except (*_LOST, hiredis.HiredisError) as error:
            self.close()
            raise LinkLost("timed out" if isinstance(error, BlockingIOError) else error, sent=True) from error
        self.unread -= count
        self.used = time.monotonic()
        return answers

    def _patience(self, timeout: float) -> None:
        seconds = max(timeout, 0.001)
        if type(self._sock) is socket.socket and _HAS_TIMEVAL:
            # The system's own time-out: with Python's there is a poll() in front of each send() and recv().
            self._sock.settimeout(None)
            value = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
        else:
            self._sock.settimeout(seconds)
        self._timeout = timeout

    def run(self, cmds: Commands, timeout: float) -> list[Any]:
        """send(), then read() an answer to each. ``timeout``: seconds for all. Raises LinkLost."""
        ends = time.monotonic() + timeout
        self.send(cmds, timeout)
        return [self.read(ends - time.monotonic()) for _ in cmds]

    def drop(self, error: Exception) -> None:
        """Close a connection on which answers are owed, or whose server only another connection can replace (READONLY)."""
        if self.unread or (isinstance(error, LinkRefused) and is_transient(error.error)):
            self.close()

    def close(self) -> None:
        """Close the connection; who it was stays known."""
        connection, self._connection = self._connection, None
        self._sock = self._answers = None
        if connection is not None:
            connection.disconnect()


class _Answers(asyncio.BufferedProtocol):
    """The answers of a connection, as they come; in place of a StreamReader, which costs a task's turn for each read."""

    def __init__(self, transport: Any) -> None:
        self.lost: Exception | None = None
        """Why no more answers come; None: they do."""
        self._loop = asyncio.get_running_loop()
        self._reader = _new_reader()
        self._buffer = memoryview(bytearray(_BUFFER))  # TLS writes into slices of it
        self._answers: list[Any] = []
        self._wanted = 0
        self._waiter: asyncio.Future[None] | None = None
        self._due = 0.0  # when the waiter has waited long enough
        self._timer: asyncio.TimerHandle | None = None
        self._before = transport.get_protocol()  # redis-py's, which hears of the end
        transport.set_protocol(self)

    def __len__(self) -> int:
        return len(self._answers)

    async def read(self, count: int, timeout: float) -> list[Any]:
        """The next ``count`` answers. ``timeout``: seconds for all. Raises one of _LOST, or hiredis.HiredisError."""
        if len(self._answers) < count:
            if self.lost is not None:
                raise self.lost
            self._wanted = count
            self._waiter = self._loop.create_future()
            self._limit(timeout)
            try:
                await self._waiter
            finally:
                self._waiter = None
        read = self._answers[:count]
        del self._answers[:count]
        return read

    def _limit(self, timeout: float) -> None:
        """Have the waiter woken in time; with one timer that is seldom set anew, not with one for each answer."""
        self._due = self._loop.time() + timeout
        if self._timer is not None and self._timer.when() > self._due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._waiter is None:
            return
        if self._loop.time() >= self._due:
            self._fail(redis.TimeoutError("no answer"))
        else:
            self._timer = self._loop.call_at(self._due, self._look)

    def _fail(self, reason: Exception) -> None:
        self.lost = self.lost or reason
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(reason)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        reader = self._reader
        try:
            reader.feed(self._buffer, 0, nbytes)
            while (answer := reader.gets()) is not _NONE_YET:
                if type(answer) is not hiredis.PushNotification:
                    self._answers.append(answer)
        except hiredis.HiredisError as error:
            self._fail(error)
        if len(self._answers) >= self._wanted and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or redis.ConnectionError("Connection closed by server."))
        if self._timer is not None:
            self._timer.cancel()
        self._before.connection_lost(exc)


class AsyncLink(_Hello):
    """As Link, for asyncio. Only one task at a time may use it."""

    calm = -math.inf
    """Since when it has not been interrupted (monotonic, s)."""
    used = 0.0
    """When the last answer came (monotonic, s)."""
    _answers: Any = None  # _Answers, of the connection that is open

    async def open(self, timeout: float, *, patient: bool = False) -> bool:
        """As Link.open(). Returns whether the connection before this one has ended for sure."""
        connection = self.connect()
        connection.socket_connect_timeout = timeout
        connection.socket_timeout = None  # the time-outs are run()'s
        try:
            async with asyncio.timeout(timeout):
                await connection.connect()
        except BaseException as error:
            await connection.disconnect(nowait=True)
            refused = _refusal(error)
            if refused is not None:
                raise LinkRefused(refused) from error
            if isinstance(error, (*_LOST, TimeoutError)):
                self.calm = time.monotonic()
                raise LinkLost(str(error) or "no answer", sent=False) from error
            raise
        self._connection, self._answers = connection, _Answers(connection._writer.transport)
        sent = time.monotonic()
        if self._opened or self.calm > -math.inf:
            self.calm = sent
        try:
            who = self._greeted(await self.run(_HELLO, timeout), sent)
            kill = self._kill()
            ended = self._settled(who, kill, await self.run(kill, timeout) if kill else [])
        except LinkLost as lost:
            lost.sent = False
            raise
        except LinkRefused:
            await self.close()
            raise
        if patient and not ended:
            await asyncio.sleep(commands.TAKE_BLOCK_MS / 1000)
        return ended

    async def is_stale(self) -> bool:
        """Whether a connection on which no answer is awaited was closed, or holds what nobody asked for."""
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # what lay there before the first turn has been read now
        return self._answers is None or len(self._answers) > 0 or self._answers.lost is not None

    async def check_idle(self, seconds: float) -> None:
        """Close a connection that was lost while nothing was sent, if it was not used for so long (SABIR-LOST-6)."""
        if self.is_open and time.monotonic() - self.used > seconds and await self.is_stale():
            await self.interrupted()

    def has_answers(self, count: int) -> bool:
        """Whether so many answers have come."""
        return self._answers is not None and len(self._answers) >= count

    async def interrupted(self) -> None:
        """Close a connection that was found to be lost."""
        self.calm = time.monotonic()
        await self.close()

    async def ask_clock(self) -> None:
        """Ask TIME (SABIR-TIME-2). Raises LinkLost or LinkRefused."""
        sent = time.monotonic()
        answer = (await self.run(commands.clock(), ANSWER))[0]
        if isinstance(answer, Exception):
            raise LinkRefused(answer)
        self._clock.update(answer, sent)

    async def run(self, cmds: Commands, timeout: float) -> list[Any]:
        """Send commands in one write and read an answer to each; an error reply is returned as an exception.

        ``timeout``: seconds for all. Raises LinkLost.
        """
        await self.send(cmds)
        return await self.read(len(cmds), timeout)

    async def send(self, cmds: Commands) -> None:
        """Send commands in one write; their answers have to be read. Raises LinkLost.

        Nobody waits for the write itself: what is answered was written.
        """
        answers = self._answers
        if answers is None:
            raise LinkLost("not connected", sent=False)
        if answers.lost is not None:
            await self.interrupted()
            raise LinkLost(answers.lost, sent=False)
        self._connection._writer.write(_packed(cmds))

    async def read(self, count: int, timeout: float) -> list[Any]:
        """The next answers; error replies are returned as exceptions. ``timeout``: seconds for all. Raises LinkLost."""
        if self._answers is None:
            raise LinkLost("not connected", sent=True)
        try:
            answers: list[Any] = await self._answers.read(count, timeout)
        except (*_LOST, hiredis.HiredisError) as error:
            await self.interrupted()
            raise LinkLost(str(error) or "no answer", sent=True) from error
        except BaseException:
            await self.close()  # an answer that nobody has read would be taken for the next one's
            raise
        self.used = time.monotonic()
        return answers

    async def drop(self, error: Exception) -> None:
        """Close a connection whose server only another connection can replace (READONLY)."""
        if isinstance(error, LinkRefused) and is_transient(error.error):
            await self.close()

    async def close(self) -> None:
        """Close the connection; who it was stays known."""
        connection, self._connection = self._connection, None
        self._answers = None
        if connection is not None:
            await connection.disconnect(nowait=True)
