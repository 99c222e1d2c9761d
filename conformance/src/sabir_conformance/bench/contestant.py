"""A contestant's processes: started, asked for rounds, measured from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from ..server import free_port, listening
from ..soak.memory import resident

FOLDER: Final = Path(__file__).parents[3] / "bench"
"""Where the contestants' programs are; only in the repository."""
START: Final = 90.0
"""Seconds that a process has to be ready."""
GRACE: Final = 60.0
"""Seconds that a round may take longer than asked for."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """A contestant can't be run, or failed; the message says why."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who takes part: an entry of contestants.json."""

    name: str
    title: str
    language: str
    """python, ruby or node."""
    program: str
    """Relative to FOLDER."""
    kind: str
    """floor, sabir or peer."""
    needs: str = ""
    """The package, or the program, without which it is not run."""

    @property
    def argv(self) -> list[str]:
        command = {"python": sys.executable, "ruby": "ruby", "node": "node"}[self.language]
        return [command, str(FOLDER / self.program)]


def contestants() -> dict[str, Contestant]:
    """All there are, by name. Raises BenchError where there is no repository."""
    path = FOLDER / "contestants.json"
    if not path.exists():
        raise BenchError("the benchmark's programs are in the repository's conformance/bench: run it from a clone")
    return {entry["name"]: Contestant(**entry) for entry in json.loads(path.read_text("utf-8"))["contestants"]}


@dataclass(slots=True)
class Process:
    """A worker or a client of a contestant."""

    title: str
    child: asyncio.subprocess.Process
    errors: IO[bytes]
    """Its standard error."""

    @classmethod
    async def start(cls, contestant: Contestant, role: str, place: dict[str, Any]) -> Process:
        """Start it, and wait until it is ready. Raises BenchError with the end of what it said."""
        arguments = [*contestant.argv, role, json.dumps(place)]
        pipe = asyncio.subprocess.PIPE
        errors = tempfile.TemporaryFile()  # not a pipe: one that nobody reads would block it  # noqa: SIM115
        try:
            child = await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe, stderr=errors, limit=1 << 20)
        except OSError as error:
            raise BenchError(f"{contestant.title}: {error}") from error
        process = cls(f"{contestant.title}, {role}", child, errors)
        try:
            await process._line("ready", START)
        except BaseException:
            await process.end()
            raise
        return process

    async def ask(self, order: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Give it an order, and read its answer. Raises BenchError."""
        assert self.child.stdin is not None
        self.child.stdin.write(json.dumps(order).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await self._line("", seconds + GRACE))
        if answer["wrong"] or not answer["calls"]:
            raise BenchError(f"{self.title}: {answer['wrong']} wrong results of {answer['calls']}")
        return answer

    async def _line(self, expected: str, seconds: float) -> str:
        assert self.child.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                line = (await self.child.stdout.readline()).decode().strip()
        except TimeoutError:
            raise BenchError(f"{self.title}: no line within {seconds:g} s") from None
        if not line or (expected and line != expected):
            raise BenchError(f"{self.title}: expected {expected or 'an answer'}, got {line!r}: {self._said()}")
        return line

    def _said(self) -> str:
        """The end of its standard error."""
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace").strip()[-400:] or "it says nothing"

    def cpu(self) -> float:
        """Seconds of computing of it and its children so far."""
        return sum(_cpu(pid) for pid in family(self.child.pid))

    def rss(self) -> int:
        """Bytes of memory that it holds."""
        return resident(self.child.pid)

    async def end(self) -> None:
        """Close its input, which ends it; kill it, if that does not."""
        if self.child.stdin is not None:
            self.child.stdin.close()
        try:
            async with asyncio.timeout(5):
                await self.child.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.child.kill()
            await self.child.wait()
        self.errors.close()


def family(pid: int) -> list[int]:
    """A process and its children's children."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    except OSError:
        children = []
    return [pid, *(one for child in children for one in family(int(child)))]


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


@contextlib.contextmanager
def nats() -> Iterator[str | None]:
    """A NATS server of our own, as its URL; None where none is installed. Raises ServerError when it does not start."""
    program, port = shutil.which("nats-server"), free_port()
    if program is None:
        yield None
        return
    with listening([program, "-a", "127.0.0.1", "-p", str(port)], port):
        yield f"nats://127.0.0.1:{port}"


@dataclass(slots=True)
class Pair:
    """A client and its workers, ready for rounds."""

    client: Process
    workers: Sequence[Process]

    async def end(self) -> None:
        await asyncio.gather(self.client.end(), *(worker.end() for worker in self.workers))
