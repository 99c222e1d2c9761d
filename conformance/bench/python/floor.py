"""The floor: what a call over Redis lists costs at least in Python, with bare sockets, hiredis and orjson.

The client pushes and pops; the worker moves to its hand, replies and acknowledges: nothing is checked, nothing survives.
"""

from __future__ import annotations

import secrets
import socket
import sys
import time
from urllib.parse import urlsplit

import hiredis
import orjson

from bench import PLACE, ROLE, Tally, ready, spread, until_the_end

REQUESTS, HAND, INBOX = (f"{PLACE['service']}:{part}" for part in ("requests", "hand", f"reply.{secrets.token_hex(4)}"))


class Raw:
    """A connection."""

    def __init__(self) -> None:
        url = urlsplit(PLACE["redis"])
        self._socket = socket.create_connection((url.hostname, url.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()
        self._chunk = 1 << 16

    def send(self, *commands: tuple[str | bytes | int, ...]) -> None:
        self._socket.sendall(b"".join([hiredis.pack_command(command) for command in commands]))

    def read(self) -> object:
        while (answer := self._reader.gets()) is False:
            data = self._socket.recv(self._chunk)
            if len(data) == self._chunk:
                self._chunk = 1 << 20
            self._reader.feed(data)
        return answer


def request(text: str) -> bytes:
    id = secrets.token_hex(16)
    body = {"jsonrpc": "2.0", "id": id, "method": "echo", "params": [text]}
    return orjson.dumps({"v": 1, "id": id, "reply_to": INBOX, "body": body})


def worker() -> None:
    spread()
    raw = Raw()
    take = ("BLMOVE", REQUESTS, HAND, "LEFT", "RIGHT", 0)
    raw.send(take)
    until_the_end()
    ready()
    while element := raw.read():
        call = orjson.loads(element)
        if PLACE["wait_ms"]:
            time.sleep(PLACE["wait_ms"] / 1e3)
        body = {"jsonrpc": "2.0", "id": call["id"], "result": call["body"]["params"][0]}
        reply = orjson.dumps({"v": 1, "id": call["id"], "worker": "floor", "body": body})
        inbox = call["reply_to"]
        raw.send(("RPUSH", inbox, reply), ("PEXPIRE", inbox, 60_000), ("LREM", HAND, 1, element), take)
        for _ in range(3):
            raw.read()


def client() -> None:
    raw = Raw()
    wait = ("BLPOP", INBOX, 0)

    def one(text: str) -> str:
        raw.send(("RPUSH", REQUESTS, request(text)), wait)
        raw.read()
        return str(orjson.loads(raw.read()[1])["body"]["result"])

    def window(tally: Tally) -> None:
        """So many in flight over one connection: each answer sends the next request."""
        begun: list[int] = []
        turns = tally.turns()
        pushed = 0
        for _ in range(tally.in_flight):
            if next(turns, None) is not None:
                begun.append(time.perf_counter_ns())
                raw.send(("RPUSH", REQUESTS, request(tally.text)))
                pushed += 1
        for _ in range(pushed):
            raw.read()
        raw.send(wait)
        for begin in begun:
            result = orjson.loads(raw.read()[1])["body"]["result"]
            tally.took(begin, result)
            if next(turns, None) is not None:
                begun.append(time.perf_counter_ns())
                raw.send(("RPUSH", REQUESTS, request(tally.text)), wait)
                raw.read()
            elif len(begun) > tally.calls:
                raw.send(wait)

    one("x" * 100)
    ready()
    for line in sys.stdin:
        tally = Tally(orjson.loads(line))
        if tally.in_flight > 1:
            window(tally)
        else:
            for _ in tally.turns():
                begin = time.perf_counter_ns()
                tally.took(begin, one(tally.text))
        print(tally.told(), flush=True)


if __name__ == "__main__":
    {"worker": worker, "client": client}[ROLE]()
