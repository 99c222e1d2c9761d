"""Redis's protocol as far as the suite needs it: packed commands, and a parser that keeps the bytes as they came."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Argument = str | bytes | int | float


class RedisError(Exception):
    """An error reply, as a value."""


class Incomplete(Exception):
    """More bytes are needed."""


def pack(*arguments: Argument) -> bytes:
    """One command, as an array of bulk strings."""
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in arguments]
    return b"".join([b"*%d\r\n" % len(parts), *(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)])


def parse(data: bytes | bytearray, start: int = 0) -> tuple[Any, int]:
    """The value at ``start`` (RESP2 and RESP3) and the position behind it. Raises Incomplete or ValueError."""
    end = data.find(b"\r\n", start)
    if end < 0:
        raise Incomplete
    kind, line, at = data[start : start + 1], bytes(data[start + 1 : end]), end + 2
    if kind == b"+":
        return line.decode(), at
    if kind == b"-":
        return RedisError(line.decode(errors="replace")), at
    if kind == b":":
        return int(line), at
    if kind == b"_":
        return None, at
    if kind == b"#":
        return line == b"t", at
    if kind == b",":
        return float(line), at
    if kind in b"$=!":
        size = int(line)
        if size < 0:
            return None, at
        if len(data) < at + size + 2:
            raise Incomplete
        return bytes(data[at : at + size]), at + size + 2
    if kind in b"*~>%|":
        count = int(line) * (2 if kind in b"%|" else 1)
        if count < 0:
            return None, at
        items = []
        for _ in range(count):
            item, at = parse(data, at)
            items.append(item)
        return items, at
    raise ValueError(f"not Redis's protocol: {bytes(data[start : start + 40])!r}")


@dataclass(slots=True)
class Message:
    """One command or one reply, with its bytes."""

    value: Any
    raw: bytes


class Stream:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete now."""
        self._data += data
        found, at = [], 0
        while at < len(self._data):
            try:
                value, end = parse(self._data, at)
            except Incomplete:
                break
            found.append(Message(value, bytes(self._data[at:end])))
            at = end
        del self._data[:at]
        return found


class Connection:
    """The runner's own connection; every method waits for its answers. Only one task at a time may use it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer, self._stream = reader, writer, Stream()
        self._ready: list[Message] = []

    @classmethod
    async def open(cls, host: str, port: int, user: str | None = None, password: str | None = None) -> Connection:
        """Connect, and authenticate if there is a password."""
        connection = cls(*await asyncio.open_connection(host, port))
        if password is not None:
            await connection.run("AUTH", *([user] if user else []), password)
        return connection

    async def run(self, *arguments: Argument) -> Any:
        """One command. Raises RedisError for an error reply."""
        answer = (await self.run_all([arguments]))[0]
        if isinstance(answer, RedisError):
            raise answer
        return answer

    async def run_all(self, commands: Iterable[tuple[Argument, ...]]) -> list[Any]:
        """Several commands in one write; error replies are returned."""
        packed = [pack(*command) for command in commands]
        self._writer.write(b"".join(packed))
        while len(self._ready) < len(packed):
            data = await self._reader.read(1 << 16)
            if not data:
                raise ConnectionError("Redis closed the connection")
            self._ready += self._stream.feed(data)
        answers, self._ready = self._ready[: len(packed)], self._ready[len(packed) :]
        return [answer.value for answer in answers]

    async def close(self) -> None:
        self._writer.close()
