"""Every call and notification, and what became of it. Executions are counted by what handlers said, not by what Redis holds."""

from __future__ import annotations

import base64
import functools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ..schemas import protocol_folder
from .journal import BREAKS, KILL, OUTAGE, PAUSE, VACANT, Journal, nobody_serves
from .process import Process

CALL, NOTIFY = "call", "notify"
RESULT, SENT = "result", "sent"
INVOKED, FINISHED = "invoked", "finished"
DELIVERIES: Final = 3
END: Final = 1.0
"""Seconds behind its time-out by which a call has to have ended (SABIR-CALL-2)."""
MARGIN: Final = 4.0
"""Seconds more, for what lies between the runner and the port on a machine that has a lot to do."""
RECOVERY: Final = 20.0
"""Seconds in which what was done to a worker, or to Redis, may still be felt: a lease, a judge's ten seconds."""
HEARTBEAT: Final = 3.0
"""Seconds after which a worker that can't reach Redis misses a heartbeat: `alive` may end before it is back."""
FAILURE: Final = 1001
"""The code of the application error of a job that is told to fail."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked for."""

    kind: str = CALL
    ms: int = 0
    """How long the handler waits."""
    size: int = 100
    """Bytes of the result."""
    filler: int = 0
    """Bytes that make the parameters larger."""
    fail: bool = False
    idempotent: bool = False
    retry: bool = False
    timeout_ms: int = 30_000
    expires_ms: int | None = None
    max_queue: int | None = None

    def __str__(self) -> str:
        words = [self.kind, f"ms={self.ms}", f"size={self.size}", f"timeout={self.timeout_ms / 1000:g} s"]
        words += [name for name in ("fail", "idempotent", "retry") if getattr(self, name)]
        for name in ("filler", "expires_ms", "max_queue"):
            if getattr(self, name):
                words.append(f"{name}={getattr(self, name)}")
        return " ".join(words)


@dataclass(slots=True, eq=False)
class Entry:
    """One request. Times are monotonic, in seconds."""

    number: int
    client: Process
    service: str
    job: Job
    many: int
    """How many calls went in the same push."""
    pushed: float
    ended: float = 0.0
    end: str = ""
    """``result``, ``sent`` or the name of the error. Empty: no answer."""
    detail: str = ""
    """The message of the error; or what is wrong with the result."""
    runs: list[tuple[float, str, Process]] = field(default_factory=list)
    """Each ``invoked`` and ``finished`` of a handler."""
    dead: Sequence[dict[str, Any]] = ()
    """Its dead letters."""

    @property
    def key(self) -> str:
        """What the handler is given to name itself: the number, and the filler."""
        return f"{self.number}:{'x' * self.job.filler}"

    def times(self, what: str) -> int:
        """How often its handler was ``invoked``, or ``finished``."""
        return sum(said == what for _, said, _ in self.runs)

    @property
    def last(self) -> float:
        """When it was last heard of."""
        return max(self.pushed, self.ended, *(at for at, _, _ in self.runs))


class Ledger:
    """All entries, by number."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.strange: list[str] = []
        """What was heard, or lay among the dead letters, and belongs to no entry."""

    def open(self, client: Process, service: str, job: Job, many: int = 1) -> Entry:
        """A request that is about to be sent."""
        entry = Entry(len(self.entries), client, service, job, many, time.monotonic())
        self.entries.append(entry)
        return entry

    def hear(self, process: Process, what: str, key: str) -> None:
        """A handler has said something."""
        entry = self._find(key)
        if entry is None:
            self.strange.append(f"{process.label} {what} a job that nobody sent: {key[:80]!r}")
        else:
            entry.runs.append((time.monotonic(), sys.intern(what), process))

    def close(self, entry: Entry, answer: dict[str, Any]) -> None:
        """A request has ended: by what the driver answered."""
        entry.ended = time.monotonic()
        entry.end = sys.intern(answer["outcome"])
        if entry.end == RESULT:
            value = answer["value"]
            if len(value) != entry.job.size + 2 or value != _text(entry.job.size):
                entry.detail = f"expected a text of {entry.job.size} x, got {len(value)} bytes of JSON: {value[:80]}"
        elif entry.end != SENT:
            entry.end, entry.detail = answer.get("name", entry.end), answer.get("message", "")
            if entry.end == "ApplicationError" and answer["code"] != FAILURE:
                entry.end = f"ApplicationError {answer['code']}"

    def bury(self, letters: list[bytes]) -> None:
        """Dead letters, as they lay in Redis."""
        for text in letters:
            try:
                letter = json.loads(text)
                element = letter["element"] if "element" in letter else base64.b64decode(letter["element_base64"])
                entry = self._find(json.loads(element)["body"]["params"]["key"])
            except (ValueError, KeyError, TypeError):
                entry = None
            if entry is None:
                self.strange.append(f"a dead letter of nothing that was sent: {text[:200]!r}")
            else:
                entry.dead = [*entry.dead, {name: letter[name] for name in ("at", "worker", "error")}]

    def _find(self, key: str) -> Entry | None:
        number = key.partition(":")[0]
        return self.entries[int(number)] if number.isdecimal() and int(number) < len(self.entries) else None

    def judge(self, journal: Journal, patience_ms: int) -> Iterator[tuple[Entry, str]]:
        """Every entry that is not accounted for, and why. ``patience_ms``: the time-out of calls that are to be answered."""
        for entry in self.entries:
            fault = fault_of(entry, journal, patience_ms)
            if fault:
                yield entry, fault


@functools.lru_cache(maxsize=4096)
def _text(size: int) -> str:
    return f'"{"x" * size}"'


@functools.cache
def never_started() -> frozenset[str]:
    """The errors that say so (errors.json)."""
    table = json.loads((protocol_folder() / "errors.json").read_text(encoding="utf-8"))
    return frozenset(error["name"] for error in table["errors"] if error["outcome"] == "never started")


def fault_of(entry: Entry, journal: Journal, patience_ms: int) -> str:
    """What is wrong with an entry, by the guarantees of the profile `reliable` (section 16). Empty: nothing."""
    job, invoked, finished = entry.job, entry.times(INVOKED), entry.times(FINISHED)
    if not entry.end:
        return f"no answer came{': ' + entry.detail if entry.detail else ''}"
    late = entry.ended - entry.pushed - job.timeout_ms / 1000
    if late > END + MARGIN:
        return f"ended {late:.1f} s behind its time-out"
    most = _most(entry)
    if invoked > most:
        return f"invoked {invoked} times, expected at most {most:g}"
    if entry.end in never_started() and invoked and not (job.retry and job.idempotent):
        return f"{entry.end} says that it never started, and it was invoked"
    return _of_notification(entry, invoked, finished) if job.kind == NOTIFY else _of_call(entry, journal, patience_ms)


def _most(entry: Entry) -> float:
    """How often the handler may be started."""
    if not entry.job.idempotent:
        return 1
    if entry.job.retry:
        return float("inf")  # each try is a request of its own
    return DELIVERIES


def _of_notification(entry: Entry, invoked: int, finished: int) -> str:
    if entry.end == SENT:
        if not finished and not entry.dead:
            return "sent, and neither ran to its end nor is a dead letter"
        if entry.job.fail and not entry.dead:
            return "its handler raised, and there is no dead letter"
        for letter in entry.dead:
            if letter["error"]["code"] == -32001 and invoked:  # DeadlineExceeded
                return "a dead letter says that it expired before it started, and it was invoked"
        return ""
    if entry.dead and entry.end in never_started():
        return f"{entry.end} says that it never started, and it is a dead letter"
    expected = entry.end in ("NotQueued", "ConnectionLost") or (entry.end == "Overloaded" and entry.job.max_queue)
    return "" if expected else f"ended with {entry.end}: {entry.detail}"


def _of_call(entry: Entry, journal: Journal, patience_ms: int) -> str:
    job, invoked, finished = entry.job, entry.times(INVOKED), entry.times(FINISHED)
    if entry.dead and not job.idempotent:
        return "a call that is not idempotent is a dead letter"
    if entry.end in (RESULT, "ApplicationError"):
        if job.fail != (entry.end != RESULT):
            return f"ended with {entry.end}, expected {'its application error' if job.fail else 'a result'}"
        if entry.detail and not job.fail:
            return entry.detail
        return "" if invoked and finished else f"answered with {entry.end}, and its handler did not run to its end"
    if not _expected(entry, journal, patience_ms):
        return f"ended with {entry.end}, and nothing explains it: {entry.detail}"
    return ""


def _expected(entry: Entry, journal: Journal, patience_ms: int) -> bool:
    """Whether something that the soak did explains how a call ended."""
    start, end, job = entry.pushed, entry.ended, entry.job
    if entry.end in ("CallTimeout", "DeadlineExceeded"):
        return job.timeout_ms < patience_ms or _lost_with_its_push(entry, journal) or _lost_twice(entry, journal)
    if entry.end == "WorkerLost":
        return bool(journal.during(start - RECOVERY, end, KILL, PAUSE, OUTAGE))
    if entry.end == "ServiceUnavailable":
        vacant = [event for event in journal.during(start - 1, end, VACANT) if event.text == nobody_serves(entry.service)]
        away = [event for event in journal.during(start - RECOVERY, end, OUTAGE) if event.until - event.at > HEARTBEAT]
        return bool(vacant or away)
    if entry.end == "Overloaded":
        return bool(job.max_queue)
    if entry.end in ("ConnectionLost", "NotQueued"):
        return job.timeout_ms < patience_ms or bool(journal.during(start, end, *BREAKS))
    return False


def _lost_with_its_push(entry: Entry, journal: Journal) -> bool:
    """A request whose RPUSH had no answer may be nowhere: it is not sent again (SABIR-LOST-1)."""
    if entry.runs:
        return False
    if entry.job.retry:
        return bool(journal.during(entry.pushed, entry.ended, *BREAKS))
    back = [event.until + 6 for event in journal.during(entry.pushed, entry.pushed, OUTAGE)]  # a reconnect pauses up to 5 s
    return bool(journal.during(entry.pushed - 0.2, max([entry.pushed + 2, *back]), *BREAKS))


def _lost_twice(entry: Entry, journal: Journal) -> bool:
    """An idempotent request that lost one worker after the other, or one while Redis was away, may take longer."""
    if not entry.job.idempotent:
        return False
    ran_on = {process for _, _, process in entry.runs}
    seen = journal.during(entry.pushed, entry.ended, KILL, PAUSE, OUTAGE)
    return sum(event.process is None or event.process in ran_on for event in seen) > 1
