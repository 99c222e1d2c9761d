"""Drivers in processes of their own, spoken to at little cost: thousands of lines a second, of which nothing is kept."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shlex
import signal
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

from ..driver import HELLO, DriverError, Manifest

_STDERR_LINES: Final = 40
_GRACE: Final = 2.0
"""Seconds that a process has to end by itself when its stdin is closed."""

_ENVIRONMENT: Final = {"MALLOC_ARENA_MAX": "2", "NODE_OPTIONS": "--max-semi-space-size=2"}
"""An allocator with an arena for each thread, and V8's young generation, grow for minutes by themselves, and hide what leaks."""

Hear = Callable[["Process", str, str], None]
"""What is told of a handler: the process, ``invoked`` or ``finished``, and the job's key."""


class Process(asyncio.SubprocessProtocol):
    """A running driver, in one role. Made by Processes.start()."""

    def __init__(self, manifest: Manifest, role: str, label: str, hear: Hear) -> None:
        self.manifest, self.role, self.label = manifest, role, label
        self.hello: dict[str, Any] = {}
        self.stderr: deque[str] = deque(maxlen=_STDERR_LINES)
        self.fault = ""
        """What the driver did wrong: ended by itself, or said what is no line of a driver. Empty: nothing."""
        self.may_end = False
        """Whether its end is our doing."""
        self.running = 0
        """How many handlers it has started and not finished."""
        self.gone = asyncio.Event()
        """It has ended, and all that it said has been read."""
        self._hear = hear
        self._transport: asyncio.SubprocessTransport | None = None
        self._rest = {1: b"", 2: b""}
        self._ids = itertools.count(1)
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}

    @property
    def pid(self) -> int:
        assert self._transport is not None
        return self._transport.get_pid()

    @property
    def alive(self) -> bool:
        return self._transport is not None and self._transport.get_returncode() is None

    def ask(self, command: str, **arguments: Any) -> asyncio.Future[dict[str, Any]]:
        """Send a command. The future is its answer; DriverError, when the process ends first."""
        number = next(self._ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        if self._transport is None or self.gone.is_set() or self.fault:
            future.set_exception(DriverError(f"{self.label}: {self.fault or 'has ended'}"))
            return future
        self._pending[number] = future
        stdin = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))
        stdin.write(json.dumps({"id": number, "cmd": command, **arguments}).encode() + b"\n")
        return future

    async def asked(self, command: str, seconds: float, **arguments: Any) -> dict[str, Any]:
        """Send a command and wait for its answer. Raises DriverError when there is none within so many seconds, or an error."""
        try:
            async with asyncio.timeout(seconds):
                answer = await self.ask(command, **arguments)
        except TimeoutError:
            raise DriverError(f"{self.label}: no answer to {command} within {seconds:g} s") from None
        if "error" in answer:
            raise DriverError(f"{self.label}: {command}: {answer['error']}")
        return answer

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and what it started; nothing, if it has ended."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.may_end = True
        self.signal(signal.SIGKILL)

    async def end(self) -> None:
        """Close its stdin, and kill it if it does not end."""
        self.may_end = True
        if self._transport is None:
            return
        stdin = self._transport.get_pipe_transport(0)
        if stdin is not None:
            stdin.close()
        for then in (self.kill, self._transport.close):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GRACE):
                    await self.gone.wait()
                    return
            then()

    # ------------------------------------------------------------------------------------------------ what it says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, self._rest[fd] = (self._rest[fd] + data if self._rest[fd] else data).split(b"\n")
        if fd == 2:
            self.stderr.extend(line.decode("utf-8", "backslashreplace") for line in lines)
            return
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        """An answer or an event. A line that a kill has cut in two never gets here: what it would have told had not begun."""
        try:
            message = json.loads(line)
            if "event" in message:
                if "key" in message:
                    self.running += 1 if message["event"] == "invoked" else -1
                    self._hear(self, message["event"], message["key"])
                return
            future = self._pending.pop(message["id"])
        except (ValueError, TypeError, KeyError):
            self._fail(f"said what is neither an event nor the answer to a command: {line[:200]!r}")
            return
        if not future.done():
            future.set_result(message)

    def connection_lost(self, _: Exception | None) -> None:
        assert self._transport is not None
        code = self._transport.get_returncode() or 0
        self._transport.close()
        status = f"exit status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        if not self.may_end and not self.fault:
            last = next((line for line in reversed(self.stderr) if line.strip()), "")
            self.fault = f"ended by itself with {status}" + (f": {last.strip()[:300]}" if last else "")
        self.gone.set()
        self._fail_pending(f"ended with {status}")

    def _fail(self, reason: str) -> None:
        self.fault = self.fault or reason
        self._fail_pending(reason)

    def _fail_pending(self, reason: str) -> None:
        for future in self._pending.values():
            if not future.done():
                future.set_exception(DriverError(f"{self.label}: {reason}"))
                future.exception()  # nobody may be waiting any more
        self._pending.clear()


class Processes:
    """All processes of a soak. Whatever happens, end() leaves none behind."""

    def __init__(self, url: str, hear: Hear) -> None:
        self.all: list[Process] = []
        self._url, self._hear = url, hear

    async def start(self, manifest: Manifest, role: str) -> Process:
        """Start a driver and say hello. Raises DriverError."""
        process = Process(manifest, role, f"{manifest.name}-{len(self.all)}", self._hear)
        self.all.append(process)
        argv = [*manifest.argv, role]
        try:
            await asyncio.get_running_loop().subprocess_exec(
                lambda: process,
                *argv,
                cwd=manifest.cwd,
                env={**os.environ, **_ENVIRONMENT, **manifest.env, "REDIS_URL": self._url},
                start_new_session=True,
            )
        except OSError as error:
            raise DriverError(f"{process.label}: cannot run {shlex.join(argv)}: {error.strerror}") from None
        process.hello = await process.asked("hello", HELLO)
        if not process.hello.get("concurrent"):
            raise DriverError(f"{process.label}: expected a driver that is concurrent")
        return process

    async def end(self) -> None:
        """End all that still run, paused ones too."""
        for process in self.all:
            process.signal(signal.SIGCONT)
        await asyncio.gather(*(process.end() for process in self.all if not process.gone.is_set()))
