"""Talks to a driver: a program that puts a port behind JSON lines (see docs/driver.md)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shlex
import signal
import subprocess
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .schemas import validate

ANSWER: Final = 5.0
"""Seconds that a driver has for an answer, beyond what the command itself takes."""
HELLO: Final = 20.0
"""Seconds that a driver has to say hello: its language may be slow to start."""
SETUP: Final = 600.0
"""Seconds that a driver's set-up may take."""
_LINE: Final = 8 << 20
_STDERR_LINES: Final = 200
_LOG_LINES: Final = 2_000
_DIALOGUE_LINES: Final = 60


_NO_COMMAND: Final = "no-such-command"
_OPTIONAL: Final = frozenset({_NO_COMMAND, "many", "wait"})
_NEEDED: Final = {"serve": {"worker"}, "call": {"outcome"}, "notify": {"outcome"}, "wait": {"outcome"}}


class DriverError(Exception):
    """The driver, not the port, is at fault: a harness-error."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """driver.json: how to run the driver."""

    path: Path
    name: str
    language: str
    argv: list[str]
    cwd: Path
    env: dict[str, str] = field(default_factory=dict)
    roles: tuple[str, ...] = ("client", "server")
    setup: list[str] | None = None

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read a manifest. Raises DriverError, naming what is wrong with it."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DriverError(f"{path}: {error.strerror}") from None
        except ValueError as error:
            raise DriverError(f"{path}: expected JSON, got {error}") from None
        fault = validate("manifest", data)
        if fault:
            raise DriverError(f"{path}: {fault}")
        cwd = (path.parent / data.get("cwd", ".")).resolve()
        return cls(
            path,
            data["name"],
            data["language"],
            data["argv"],
            cwd,
            data.get("env", {}),
            tuple(data.get("roles", ("client", "server"))),
            data.get("setup"),
        )

    def prepare(self) -> None:
        """Run the set-up command, if there is one, to its end. Raises DriverError, with the end of what it printed."""
        if self.setup is None:
            return
        try:
            done = subprocess.run(  # noqa: S603 - the command is the driver's own
                self.setup,
                cwd=self.cwd,
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=SETUP,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DriverError(f"{self.name}: set-up {shlex.join(self.setup)}: {error}") from None
        if done.returncode:
            tail = "\n".join(done.stdout.decode(errors="replace").splitlines()[-10:])
            raise DriverError(f"{self.name}: set-up {shlex.join(self.setup)}: {_status(done.returncode)}\n{tail}")


class Driver:
    """A running driver, in one role."""

    def __init__(self, manifest: Manifest, role: str, url: str, mark: str = "") -> None:
        self.manifest, self.role = manifest, role
        self.hello: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        self.log: deque[str] = deque(maxlen=_LOG_LINES)
        """What went in and what came out, newest last."""
        self.logged = 0
        """How many lines the log has had in all."""
        self.about: dict[str, deque[str]] = {}
        """The lines of the log that belong to a namespace; a case takes out its own at its end."""
        self.stderr: deque[str] = deque(maxlen=_STDERR_LINES)
        self.fault: DriverError | None = None
        """Why the driver can't be used any more."""
        self.stray: DriverError | None = None
        """An answer that nobody had asked for, as long as no case has been blamed for it."""
        self._url, self._mark = url, mark
        self._process: asyncio.subprocess.Process | None = None
        self._ids = itertools.count(1)
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._namespaces: dict[int, str] = {}  # of the pending
        self._answered: set[int] = set()
        self._given_up: set[int] = set()  # nobody waits for them any more, as their case is over: an answer may still come
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Condition()
        self._turn = asyncio.Lock()

    @property
    def title(self) -> str:
        return f"{self.manifest.name} {self.role}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it and say hello. Raises DriverError."""
        argv = [*self.manifest.argv, self.role]
        environment = {**os.environ, **self.manifest.env, "REDIS_URL": self._url, "SABIR_CONFORMANCE_MARK": self._mark}
        try:
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                cwd=self.manifest.cwd,
                env=environment,
                limit=_LINE,
                start_new_session=True,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise DriverError(f"{self.title}: cannot run {shlex.join(argv)}: {error.strerror}") from None
        self._tasks = [asyncio.create_task(work()) for work in (self._read, self._read_stderr, self._watch)]
        self.hello = await self.ask("hello", seconds=HELLO)
        fault = validate("hello", self.hello)
        if fault:
            raise self._fail(f"answer to hello: {fault}")
        if "1" not in self.hello["spec"]:
            raise self._fail(f"speaks versions {self.hello['spec']}, not 1")
        answer = await self.ask(_NO_COMMAND)
        if answer.get("error") != "unsupported":
            got = json.dumps(answer)[:200]
            raise self._fail(f'expected {{"error": "unsupported"}} to a command that does not exist, got {got}')

    async def ask(self, command: str, seconds: float = ANSWER, **arguments: Any) -> dict[str, Any]:
        """Send a command and wait for its answer. Raises DriverError when there is none, or no valid one."""
        if self.fault:
            self.stray = None
            raise self.fault
        async with contextlib.AsyncExitStack() as stack:
            if self.hello and not self.hello.get("concurrent", False):
                await stack.enter_async_context(self._turn)
            return await self._ask(command, seconds, arguments)

    async def _ask(self, command: str, seconds: float, arguments: dict[str, Any]) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        number = next(self._ids)
        line = json.dumps({"id": number, "cmd": command, **arguments})
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        self._namespaces[number] = arguments.get("namespace", "")
        self._note(f"> {line[:2000]}", self._namespaces[number])
        try:
            self._process.stdin.write(line.encode() + b"\n")
            async with asyncio.timeout(seconds):
                await self._process.stdin.drain()
                answer = await future
        except asyncio.CancelledError:
            self._given_up.add(number)
            raise
        except TimeoutError:
            raise self._fail(f"no answer to {command} within {seconds:.1f} s") from None
        except (ConnectionError, BrokenPipeError):
            await self._ended()
            raise self.fault or self._fail("closed its stdin") from None
        finally:
            self._pending.pop(number, None)
            self._namespaces.pop(number, None)
            self._answered.add(number)
        if "error" in answer and not (answer["error"] == "unsupported" and command in _OPTIONAL):
            raise DriverError(f"{self.title}: {command}: {answer['error']}")
        missing = _NEEDED.get(command, set()) - answer.keys()
        if missing:
            got = json.dumps(answer)[:200]
            raise DriverError(f"{self.title}: {command}: expected {', '.join(missing)} in the answer, got {got}")
        return answer

    async def event(self, matches: Callable[[dict[str, Any]], bool], seconds: float, times: int = 1) -> bool:
        """Wait until so many events match."""
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: sum(map(matches, self.events)) >= times)
        except TimeoutError:
            return False
        return True

    async def _ended(self) -> None:
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._process.wait()
        if self._process.returncode is not None:
            await asyncio.wait(self._tasks[1:2], timeout=0.2)  # what it said on stderr
            last = next((line for line in reversed(self.stderr) if line.strip()), "")
            self._fail(f"ended with {_status(self._process.returncode)}" + (f": {last.strip()[:200]}" if last else ""))

    def _fail(self, reason: str) -> DriverError:
        if self.fault is None:
            self.fault = DriverError(f"{self.title}: {reason}")
            for future in self._pending.values():
                if not future.done():
                    future.set_exception(self.fault)
        return self.fault

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while True:
            try:
                line = await self._process.stdout.readline()
            except ValueError:
                self._fail(f"a line of more than {_LINE >> 20} MiB on stdout")
                return
            if not line:
                await self._ended()
                self._fail("closed its stdout")
                return
            text = line.decode("utf-8", "backslashreplace").rstrip("\n")
            try:
                message = json.loads(line)
            except ValueError:
                self._note(f"< {text[:2000]}")
                self._fail(f"not JSON on stdout: {text[:200]!r}")
                return
            self._note(f"< {text[:2000]}", self._namespace_of(message))
            await self._take(message, text)

    async def _take(self, message: Any, text: str) -> None:
        fault = validate("line", message)
        if fault:
            self._fail(f"{fault} on stdout: {text[:200]!r}")
        elif "event" in message:
            self.events.append(message)
            async with self._changed:
                self._changed.notify_all()
        elif message["id"] in self._pending and not self._pending[message["id"]].done():
            self._pending[message["id"]].set_result(message)
        elif message["id"] in self._given_up:
            self._given_up.remove(message["id"])
        elif message["id"] in self._pending and self._pending[message["id"]].cancelled():
            pass  # its case is over, which the one who asked is about to learn
        else:
            again = message["id"] in self._answered or message["id"] in self._pending
            blamed = any(not future.done() for future in self._pending.values())
            unasked = self._fail(f"answered {'twice' if again else 'what was not asked'}: {text[:200]!r}")
            self.stray = None if blamed else unasked

    def _namespace_of(self, message: Any) -> str:
        if not isinstance(message, dict):
            return ""
        found = message.get("namespace") if "event" in message else self._namespaces.get(message.get("id", 0))
        return found if isinstance(found, str) else ""

    def _note(self, text: str, namespace: str = "") -> None:
        self.log.append(text)
        self.logged += 1
        if namespace:
            self.about.setdefault(namespace, deque(maxlen=_DIALOGUE_LINES)).append(text)

    def since(self, mark: int) -> list[str]:
        """What the log got after its length was ``mark``, as far as it is still there."""
        return list(self.log)[max(0, len(self.log) - (self.logged - mark)) :]

    async def _watch(self) -> None:
        """Notice its end, also when a process that it left behind keeps its stdout open."""
        assert self._process is not None
        while self._process.returncode is None:
            await asyncio.sleep(0.1)
        await asyncio.wait(self._tasks[:1], timeout=0.5)  # its last answers
        await self._ended()

    async def _read_stderr(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        while data := await self._process.stderr.read(1 << 16):
            self.stderr.extend(data.decode("utf-8", "backslashreplace").splitlines())

    async def stop(self) -> None:
        """End the driver: close its stdin, then SIGTERM, then SIGKILL to all of its group. Nothing stays behind."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        for number, patience in ((None, 1.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)):
            if number is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await process.wait()
                    break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it started and did not end
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=0.2)  # what it said at last
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        process._transport.close()  # type: ignore[attr-defined]  # its pipes, where something is left in them that nobody reads


def _status(code: int) -> str:
    return f"exit status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
