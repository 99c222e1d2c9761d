"""A TCP proxy between a port and Redis: it writes the transcript, lets cases wait for what it sees, and breaks things.

A rule names a command (its first words, keys by their role) and what happens when it is seen for the nth time. So a
fault fires on an observed event, never after a sleep; and with a rule for every command the proxy is a scripted Redis.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from .resp import Message, RedisError, Stream, pack
from .schemas import script_digest

# The answers of TIME, and of the heartbeat's script.
_TIME: Final = re.compile(rb"(\*2\r\n\$10\r\n|\*5\r\n:)([0-9]{10})\r\n(?=(?:\$[1-6]\r\n|:)[0-9]{1,6}\r\n)")


@dataclass(slots=True)
class Line:
    """One line of the transcript."""

    at: float
    """Seconds since the case began."""
    who: str
    """The connection: c1, c2, … of the port; or runner, driver."""
    kind: str
    """> command, < reply, ! event."""
    text: str


@dataclass(slots=True)
class Seen:
    """A command that passed."""

    connection: int
    write: int
    """Counts the reads of the proxy on this connection: commands of one write have the same number."""
    words: list[bytes]
    reply: Any = ...
    """Its answer; ... as long as there is none."""


@dataclass(slots=True)
class Rule:
    """What happens to a command.

    ``on``: its first words. ``nth``: which occurrence, 0: every one. ``do``: "cut before" (Redis never sees it),
    "cut after" (Redis executes it, its answer is lost), "cut within" (half of the answer arrives), "silence" (from here
    on nothing passes to the port on this connection, which stays open), "reply" (Redis never sees it, ``reply`` is answered),
    "hold answer" (its answer is kept until the case lets it go), "swallow" (from here on nothing of the port reaches Redis on
    this connection, which stays open), "slice" (from here on answers arrive in pieces of three bytes).

    ``behind``: only in a transaction that holds this command; ``on`` is then usually EXEC.
    """

    on: list[str]
    do: str
    nth: int = 1
    reply: bytes = b""
    behind: list[str] | None = None
    or_script: str | None = None
    """Also when this script of the protocol is run."""
    count: int = 0
    fired: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)


def show(value: Any, limit: int = 400) -> str:
    """A command's word or a reply, for the transcript."""
    if isinstance(value, RedisError):
        return f"(error) {value}"
    if isinstance(value, bytes):
        text = value.decode("utf-8", "backslashreplace")
        return text if len(text) <= limit else f"{text[:limit]}… ({len(value)} bytes)"
    if isinstance(value, list):
        return "[" + ", ".join(show(item, limit) for item in value) + "]"
    return "(nil)" if value is None else str(value)


def begins(words: list[bytes], wanted: list[str]) -> bool:
    """Whether a command begins with these words; * stands for any one, @wait, @heartbeat and @goodbye for what profiles do."""
    if wanted and wanted[0][:1] == "@":
        return _STEPS[wanted[0]](words)
    return len(words) >= len(wanted) and all(
        w == "*" or w.upper() == g.decode("utf-8", "replace").upper() for w, g in zip(wanted, words, strict=False)
    )


def runs(words: list[bytes], script: str) -> bool:
    """Whether a command runs a script of the protocol, by its digest or its text."""
    name = words[0].upper()
    if name not in {b"EVALSHA", b"EVAL"} or len(words) < 2:
        return False
    digest = words[1].lower().decode("ascii", "replace") if name == b"EVALSHA" else hashlib.sha1(words[1]).hexdigest()  # noqa: S324 - Redis's own
    return digest == script_digest(script)


def _is_wait(words: list[bytes]) -> bool:
    """A client waits for a reply: it pops, or it looks."""
    name = words[0].upper()
    return name in {b"BLPOP", b"BRPOP", b"BLMPOP"} or (name == b"BLMOVE" and b":reply:" in words[1])


def _is_heartbeat(words: list[bytes]) -> bool:
    """A worker says that it lives: the SET of the transaction (core), or the script (reliable)."""
    return (words[0].upper() == b"SET" and words[1].endswith(b":alive")) or runs(words, "heartbeat")


def _is_goodbye(words: list[bytes]) -> bool:
    return (words[0].upper() == b"ZREM" and words[1].endswith(b":leases")) or runs(words, "goodbye")


_STEPS: Final = {"@wait": _is_wait, "@heartbeat": _is_heartbeat, "@goodbye": _is_goodbye}


class Transcript:
    """What was seen, in order."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.lines: list[Line] = []

    def add(self, who: str, kind: str, text: str) -> None:
        self.lines.append(Line(time.monotonic() - self.begin, who, kind, text))


class Proxy:
    """Listens on a port of its own, for one case."""

    def __init__(self, upstream: tuple[str, int], transcript: Transcript) -> None:
        self._upstream = upstream
        self._transcript = transcript
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._opened = 0
        self.rules: list[Rule] = []
        self.seen: list[Seen] = []
        self.changed = asyncio.Condition()
        self.refusing = False
        """New connections are closed at once."""
        self.time_shift = 0
        """Seconds by which the answers of TIME are off: the port lives on a Redis whose clock is wrong."""
        self._wakers: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for link in list(self._links):
            link.cut()
        await asyncio.gather(*(link.done.wait() for link in list(self._links)))

    def cut_all(self) -> None:
        """Break every connection that there is."""
        for link in list(self._links):
            link.cut()

    async def wait_for(self, condition: Callable[[], Any], seconds: float) -> Any:
        """Wait until the condition, looked at after each command and reply, is true. Raises TimeoutError."""
        async with asyncio.timeout(seconds), self.changed:
            return await self.changed.wait_for(condition)

    def notice(self) -> None:
        async def wake() -> None:
            async with self.changed:
                self.changed.notify_all()

        task = asyncio.get_running_loop().create_task(wake())
        self._wakers.add(task)
        task.add_done_callback(self._wakers.discard)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.close()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            writer.close()
            return
        if self.refusing:  # since it began to connect
            writer.close()
            up_writer.close()
            return
        self._opened += 1
        link = _Link(self, self._opened, self._transcript, (reader, writer), (up_reader, up_writer))
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)


class _Link:
    """One connection of the port, and its other half to Redis."""

    def __init__(self, proxy: Proxy, number: int, transcript: Transcript, port: Any, redis: Any) -> None:
        self._proxy, self.number, self._transcript = proxy, number, transcript
        self._reader, self._writer = port
        self._up_reader, self._up_writer = redis
        self._waiting: list[tuple[Seen, Rule | None]] = []  # commands whose answer is to come
        self._silent = self._deaf = self._slices = False
        self._transaction: list[list[bytes]] = []
        self.done = asyncio.Event()

    def cut(self) -> None:
        self._transcript.add(f"c{self.number}", "!", "connection cut by the suite")
        for writer in (self._writer, self._up_writer):
            if writer.transport is not None:
                writer.transport.abort()

    async def run(self) -> None:
        up = asyncio.ensure_future(self._commands())
        down = asyncio.ensure_future(self._replies())
        try:
            await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            for writer in (self._writer, self._up_writer):
                writer.close()
            self.done.set()
            self._proxy.notice()

    async def _commands(self) -> None:
        stream, writes = Stream(), 0
        while data := await self._reader.read(1 << 18):
            writes += 1
            for message in stream.feed(data):
                if not await self._command(message, writes):
                    return

    async def _command(self, message: Message, write: int) -> bool:
        words = [word if isinstance(word, bytes) else str(word).encode() for word in message.value]
        seen = Seen(self.number, write, words)
        self._proxy.seen.append(seen)
        self._transcript.add(f"c{self.number}", ">", " ".join(map(show, words)))
        if self._deaf:
            return True
        rule = self._rule(words)
        if words[0].upper() == b"MULTI":
            self._transaction = []
        self._transaction.append(words)
        if rule is not None and rule.do == "cut before":
            rule.fired.set()
            self.cut()
            return False
        if rule is not None and rule.do == "swallow":
            self._deaf = True
            self._transcript.add(f"c{self.number}", "!", "nothing from here on reaches Redis")
            rule.fired.set()
            self._proxy.notice()
            return True
        if rule is not None and rule.do == "reply":
            # In its place among the answers that are still to come: Redis is asked for something that it answers at once,
            # and a transaction that is refused is not executed.
            self._waiting.append((seen, rule))
            self._up_writer.write(pack("DISCARD" if words[0].upper() == b"EXEC" else "PING"))
        else:
            self._waiting.append((seen, rule))
            self._up_writer.write(message.raw)
        self._proxy.notice()
        return True

    def _rule(self, words: list[bytes]) -> Rule | None:
        for rule in self._proxy.rules:
            behind = rule.behind
            inside = behind is None or any(begins(other, behind) for other in self._transaction)
            if (begins(words, rule.on) and inside) or (rule.or_script is not None and runs(words, rule.or_script)):
                rule.count += 1
                if rule.nth in (0, rule.count):
                    return rule
        return None

    async def _replies(self) -> None:
        stream = Stream()
        while data := await self._up_reader.read(1 << 18):
            out: list[bytes] = []
            for message in stream.feed(data):
                rule = self._waiting[0][1] if self._waiting else None
                if rule is not None and rule.do == "hold answer":
                    rule.fired.set()
                    self._proxy.notice()
                    await rule.go.wait()
                raw = self._reply(message)
                if raw is None:
                    if out and not self._silent:
                        self._writer.write(b"".join(out))
                    return
                out.append(raw)
            if out and not self._silent:
                await self._write(b"".join(out))

    async def _write(self, data: bytes) -> None:
        """Pass answers on: whole, or in pieces, each in a packet of its own."""
        if not self._slices:
            self._writer.write(data)
            return
        for start in range(0, len(data), 3):
            self._writer.write(data[start : start + 3])
            await self._writer.drain()
            await asyncio.sleep(0)

    def _reply(self, message: Message) -> bytes | None:
        """What is passed on; None: the connection was cut."""
        if message.raw[:1] == b">" or not self._waiting:
            return message.raw
        seen, rule = self._waiting.pop(0)
        seen.reply = message.value
        raw = message.raw
        if self._proxy.time_shift:
            raw = _TIME.sub(lambda found: b"%b%d\r\n" % (found[1], int(found[2]) + self._proxy.time_shift), raw)
        if rule is not None:
            rule.fired.set()
            if rule.do == "reply":
                raw = rule.reply
                seen.reply = RedisError(raw[1:].decode().strip()) if raw[:1] == b"-" else raw
            elif rule.do in {"cut after", "cut within"}:
                self._transcript.add(f"c{self.number}", "<", f"{show(message.value)}  (not passed on)")
                if rule.do == "cut within":
                    self._writer.write(raw[: max(1, len(raw) // 2)])
                    asyncio.get_running_loop().call_later(0.02, self.cut)
                    self._silent = True
                    self._proxy.notice()
                    return b""
                self.cut()
                self._proxy.notice()
                return None
            elif rule.do == "slice":
                self._slices = True
            elif rule.do == "silence":
                self._silent = True
                self._transcript.add(f"c{self.number}", "!", "the connection falls silent")
        self._transcript.add(f"c{self.number}", "<", show(seen.reply))
        self._proxy.notice()
        return raw
