"""The soak: what it finds wrong, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sabir_conformance.driver import DriverError, Manifest
from sabir_conformance.soak import load
from sabir_conformance.soak.journal import CUT, KILL, OUTAGE, PAUSE, VACANT, Event, Journal, nobody_serves
from sabir_conformance.soak.ledger import CALL, FINISHED, INVOKED, NOTIFY, Entry, Job, Ledger, fault_of
from sabir_conformance.soak.memory import Growth, Memory
from sabir_conformance.soak.process import Process, Processes

DRIVER = Path(__file__).resolve().parents[1] / "drivers/python/driver.json"
PATIENCE_MS = 45_000
PATIENT = Job(timeout_ms=PATIENCE_MS)


def process(label: str = "python-1") -> Process:
    return Process(Manifest(DRIVER, "python", "Python", ["false"], DRIVER.parent), "server", label, lambda *_: None)


WORKER, OTHER = process("python-1"), process("python-2")


def entry(job: Job, end: str, runs: str = "", *, after: float = 1.0, dead: int | None = None, detail: str = "") -> Entry:
    """A request sent at 100 s. ``runs``: i(nvoked) and f(inished) in WORKER, I and F in OTHER. ``dead``: a code."""
    made = Entry(7, WORKER, "soak", job, 1, 100.0, 100.0 + after, end, detail)
    made.runs = [(100.5, INVOKED if letter in "iI" else FINISHED, WORKER if letter.islower() else OTHER) for letter in runs]
    made.dead = [] if dead is None else [{"at": 1, "worker": "w.1", "error": {"code": dead, "message": ""}}]
    return made


def journal(*events: tuple[str, float, float]) -> Journal:
    """Of kind, beginning and end; what happens to workers happens to WORKER."""
    made = Journal()
    made.events = [
        Event(at, kind, nobody_serves("soak") if kind == VACANT else kind, WORKER if kind in (KILL, PAUSE) else None, until)
        for kind, at, until in events
    ]
    return made


NOTIFICATION = Job(NOTIFY, timeout_ms=PATIENCE_MS)
IDEMPOTENT = Job(idempotent=True, timeout_ms=PATIENCE_MS)
SHORT = Job(ms=500, timeout_ms=100)


@pytest.mark.parametrize(
    ("made", "events"),
    [
        (entry(PATIENT, "result", "if"), []),
        (entry(Job(fail=True), "ApplicationError", "if"), []),
        (entry(PATIENT, "WorkerLost", "i", after=12), [(KILL, 101, 101)]),
        (entry(PATIENT, "WorkerLost", after=12), [(PAUSE, 99, 112)]),
        (entry(IDEMPOTENT, "result", "iIF"), []),
        (entry(IDEMPOTENT, "WorkerLost", "iii", dead=-32005), [(KILL, 101, 101)]),
        (entry(Job(idempotent=True, retry=True), "ServiceUnavailable", "i"), [(VACANT, 99, 101)]),
        (entry(SHORT, "CallTimeout", "if", after=0.1), []),
        (entry(SHORT, "DeadlineExceeded", after=0.1), []),
        (entry(PATIENT, "CallTimeout", after=45), [(CUT, 100.1, 100.1)]),
        (entry(PATIENT, "CallTimeout", after=45), [(OUTAGE, 99, 110), (CUT, 111, 111)]),
        (entry(IDEMPOTENT, "CallTimeout", "ii", after=45), [(KILL, 101, 101), (OUTAGE, 110, 122)]),
        (entry(PATIENT, "ConnectionLost"), [(CUT, 100.5, 100.5)]),
        (entry(PATIENT, "ServiceUnavailable"), [(VACANT, 90, 103)]),
        (entry(PATIENT, "ServiceUnavailable"), [(OUTAGE, 85, 97)]),
        (entry(Job(max_queue=1), "Overloaded"), []),
        (entry(NOTIFICATION, "sent", "if"), []),
        (entry(NOTIFICATION, "sent", "i", dead=-32005), []),
        (entry(NOTIFICATION, "sent", "if", dead=-32005), []),
        (entry(NOTIFICATION, "sent", dead=-32001), []),
        (entry(NOTIFICATION, "NotQueued"), []),
        (entry(NOTIFICATION, "ConnectionLost", "if"), []),
        (entry(Job(NOTIFY, fail=True), "sent", "if", dead=1001), []),
    ],
)
def test_accounted_for(made: Entry, events: list[tuple[str, float, float]]) -> None:
    assert fault_of(made, journal(*events), PATIENCE_MS) == ""


@pytest.mark.parametrize(
    ("made", "events", "fault"),
    [
        (entry(PATIENT, ""), [], "no answer came"),
        (entry(PATIENT, "result", "if", after=51), [], "ended 6.0 s behind its time-out"),
        (entry(PATIENT, "result", "ifIF"), [], "invoked 2 times, expected at most 1"),
        (entry(PATIENT, "WorkerLost", "iI"), [(KILL, 101, 101)], "invoked 2 times, expected at most 1"),
        (entry(IDEMPOTENT, "result", "ifififif"), [], "invoked 4 times, expected at most 3"),
        (entry(PATIENT, "ServiceUnavailable", "i"), [(VACANT, 99, 101)], "says that it never started, and it was invoked"),
        (entry(Job(max_queue=1), "Overloaded", "if"), [], "says that it never started, and it was invoked"),
        (entry(PATIENT, "result"), [], "answered with result, and its handler did not run to its end"),
        (entry(PATIENT, "result", "i"), [], "answered with result, and its handler did not run to its end"),
        (entry(PATIENT, "result", "if", detail="expected a text of 100 x"), [], "expected a text of 100 x"),
        (entry(Job(fail=True), "result", "if"), [], "ended with result, expected its application error"),
        (entry(PATIENT, "ApplicationError", "if"), [], "ended with ApplicationError, expected a result"),
        (entry(PATIENT, "CallTimeout", after=45), [], "ended with CallTimeout, and nothing explains it"),
        (entry(PATIENT, "CallTimeout", after=45), [(CUT, 110, 110)], "ended with CallTimeout, and nothing explains it"),
        (entry(PATIENT, "CallTimeout", "if", after=45), [(CUT, 100.1, 100.1)], "ended with CallTimeout, and nothing"),
        (entry(PATIENT, "CallTimeout", "i", after=45), [(KILL, 101, 101)], "ended with CallTimeout, and nothing explains"),
        (entry(PATIENT, "WorkerLost"), [], "ended with WorkerLost, and nothing explains it"),
        (entry(PATIENT, "ServiceUnavailable"), [(KILL, 99, 99)], "ended with ServiceUnavailable, and nothing explains it"),
        (entry(PATIENT, "Overloaded"), [], "ended with Overloaded, and nothing explains it"),
        (entry(PATIENT, "ConnectionLost"), [], "ended with ConnectionLost, and nothing explains it"),
        (entry(PATIENT, "InternalError", "i"), [], "ended with InternalError, and nothing explains it"),
        (entry(PATIENT, "result", "if", dead=-32005), [], "a call that is not idempotent is a dead letter"),
        (entry(NOTIFICATION, "sent"), [], "sent, and neither ran to its end nor is a dead letter"),
        (entry(NOTIFICATION, "sent", "i"), [], "sent, and neither ran to its end nor is a dead letter"),
        (entry(NOTIFICATION, "sent", "if", dead=-32001), [], "says that it expired before it started, and it was invoked"),
        (entry(Job(NOTIFY, fail=True), "sent", "if"), [], "its handler raised, and there is no dead letter"),
        (entry(NOTIFICATION, "NotQueued", dead=-32005), [], "says that it never started, and it is a dead letter"),
        (entry(NOTIFICATION, "CallTimeout"), [], "ended with CallTimeout"),
    ],
)
def test_not_accounted_for(made: Entry, events: list[tuple[str, float, float]], fault: str) -> None:
    assert fault in fault_of(made, journal(*events), PATIENCE_MS)


def test_a_ledger_finds_by_key() -> None:
    ledger = Ledger()
    first, second = ledger.open(WORKER, "soak", Job(filler=3)), ledger.open(WORKER, "soak", Job(NOTIFY))
    assert (first.key, second.key) == ("0:xxx", "1:")
    ledger.hear(OTHER, INVOKED, "0:xxx")
    element = json.dumps({"body": {"params": {"key": "1:"}}})
    ledger.bury([json.dumps({"at": 1, "worker": "w.1", "error": {"code": 1}, "element": element}).encode()])
    assert [(what, who) for _, what, who in first.runs] == [(INVOKED, OTHER)]
    assert [letter["error"]["code"] for letter in second.dead] == [1]
    assert ledger.strange == []
    ledger.hear(OTHER, INVOKED, "2:")
    ledger.bury([b"{}"])
    assert len(ledger.strange) == 2


def test_a_result_is_compared() -> None:
    ledger = Ledger()
    right, wrong = ledger.open(WORKER, "soak", Job(size=3)), ledger.open(WORKER, "soak", Job(size=3))
    ledger.close(right, {"outcome": "result", "value": '"xxx"'})
    ledger.close(wrong, {"outcome": "result", "value": '"xyx"'})
    assert right.detail == ""
    assert "expected a text of 3 x" in wrong.detail


def test_the_mixture_has_everything() -> None:
    chance = random.Random(1)
    jobs = [load.draw(chance, PATIENCE_MS, frozenset({"retry", "bound"})) for _ in range(5000)]
    for kind in (CALL, NOTIFY):
        for name in ("fail", "idempotent", "filler"):
            assert {bool(getattr(job, name)) for job in jobs if job.kind == kind} == {True, False}
    assert any(job.retry for job in jobs)
    assert any(job.expires_ms for job in jobs)
    assert any(job.max_queue for job in jobs)
    assert any(job.timeout_ms < job.ms for job in jobs)
    assert all(job.ms < 5000 for job in jobs)
    sizes = [job.size for job in jobs if job.kind == CALL]
    assert min(sizes) == load.SMALL
    assert 100_000 < max(sizes) <= load.LARGE


def test_memory_of_those_that_live_long() -> None:
    """This very process: it lives, and it grows."""
    memory, grown = Memory(), process()
    grown._transport = type("Transport", (), {"get_pid": lambda _: os.getpid()})()  # type: ignore[assignment]
    kept = []
    for _ in range(8):
        kept.append(b"x" * (12 << 20))
        memory.sample([grown])
    (growth,) = memory.growth(8)
    assert growth.after > growth.before + (40 << 20)
    assert memory.growth(9) == []
    assert Growth(grown, 100 << 20, 121 << 20, []).is_too_much
    assert not Growth(grown, 100 << 20, 119 << 20, []).is_too_much
    assert not Growth(grown, 20 << 20, 30 << 20, []).is_too_much


HELLO = """input(); print('{"id":1,"concurrent":true}', flush=True)"""


@pytest.mark.parametrize(
    ("then", "fault"),
    [
        ("raise SystemExit(4)", "ended by itself with exit status 4"),
        ("print('hello', flush=True); input()", "said what is neither an event nor the answer to a command: b'hello'"),
        ("print('{\"id\":1}', flush=True); input()", "said what is neither an event nor the answer to a command"),
    ],
)
def test_a_driver_that_is_wrong(then: str, fault: str) -> None:
    argv = [sys.executable, "-c", f"{HELLO}; input(); {then}"]

    async def run() -> Process:
        processes = Processes("redis://127.0.0.1:1/0", lambda *_: None)
        made = await processes.start(Manifest(DRIVER, "wrong", "Python", argv, DRIVER.parent), "server")
        try:
            with pytest.raises(DriverError, match="wrong-0"):
                await made.asked("stop", 5.0)
        finally:
            await processes.end()
        return made

    assert fault in asyncio.run(run()).fault


def test_what_a_killed_process_said_is_read_to_its_end() -> None:
    say = """print('{"event":"invoked","namespace":"n","service":"s","method":"job","key":"1:"}', flush=True)"""
    cut = 'import os; os.write(1, b\'{"event":"finished","name\'); input()'
    heard: list[tuple[str, str]] = []

    async def run() -> Process:
        processes = Processes("redis://127.0.0.1:1/0", lambda _, what, key: heard.append((what, key)))
        argv = [sys.executable, "-c", f"{HELLO}; input(); {say}; {cut}"]
        made = await processes.start(Manifest(DRIVER, "python", "Python", argv, DRIVER.parent), "server")
        future = made.ask("call")
        ends = time.monotonic() + 5
        while not heard and time.monotonic() < ends:
            await asyncio.sleep(0.01)
        made.kill()
        with pytest.raises(DriverError, match="SIGKILL"):
            await future
        await processes.end()
        return made

    assert asyncio.run(run()).fault == ""
    assert heard == [("invoked", "1:")]


# ---------------------------------------------------------------------------------------------------- whole soaks


def command(*arguments: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "sabir_conformance", "soak", "--client", str(DRIVER), "--worker", str(DRIVER)]
    return subprocess.Popen([*line, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def soaks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[int, str, dict[str, Any]]]]:
    """Two short soaks, side by side: exit status, output, soak.json."""
    folder = tmp_path_factory.mktemp("soak")
    options = ("--seconds=5", "--workers=3", "--rate=100", "--seed=5")
    running = {
        "whole": command(*options, f"--out={folder / 'whole'}"),
        "loss": command(*options, f"--out={folder / 'loss'}", "--plant-loss"),
    }
    try:
        said = {name: running[name].communicate(timeout=90)[0] for name in running}
        yield {
            name: (running[name].returncode, said[name], json.loads((folder / name / "soak.json").read_text("utf-8")))
            for name in running
        }
    finally:
        for soak in running.values():
            soak.terminate()
            soak.communicate()


def test_a_soak_accounts_for_everything(soaks: dict[str, tuple[int, str, dict[str, Any]]]) -> None:
    status, text, told = soaks["whole"]
    assert status == 0, text
    assert "all accounted for" in text
    assert "seed 5" in text
    assert told["faults"] == told["troubles"] == []
    assert told["calls"] >= 200
    assert told["executions"] >= told["pairs"]["python > python"]["result"] > 100
    assert told["notifications"]["sent"] > 10
    assert told["chaos"]["kill"] >= 1
    assert {"outage", "cut", "flush", "stop"} <= told["chaos"].keys()


def test_a_planted_loss_is_found_and_named(soaks: dict[str, tuple[int, str, dict[str, Any]]]) -> None:
    status, text, told = soaks["loss"]
    assert status == 1, text
    planted = told["planted"]
    assert [fault["request"] for fault in told["faults"]] == [planted]
    assert f"request {planted} (notify): sent, and neither ran to its end nor is a dead letter" in text
    assert any("sent by python-" in line for line in told["faults"][0]["history"])


def children(pid: int) -> set[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return {int(child) for child in found.read_text(encoding="ascii").split()} if found.exists() else set()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to tell whose child a process is")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing_behind(number: signal.Signals) -> None:
    soak = command("--seconds=60", "--workers=2", "--rate=50")
    seen: set[int] = set()
    ends = time.monotonic() + 20
    while len(seen) < 5 and time.monotonic() < ends:  # Redis, two workers, the lonely one, the client
        time.sleep(0.05)
        seen |= children(soak.pid)
    soak.send_signal(number)
    output, _ = soak.communicate(timeout=20)
    assert soak.returncode == 130, output
    assert len(seen) >= 5
    assert [pid for pid in seen if Path(f"/proc/{pid}").exists()] == []


def test_exit_status_2(tmp_path: Path) -> None:
    manifest = tmp_path / "driver.json"
    manifest.write_text(json.dumps({"name": "none", "language": "None", "argv": ["no-such-program"]}), encoding="utf-8")
    soak = command("--worker", str(manifest), "--seconds=5")
    output, _ = soak.communicate(timeout=30)
    assert soak.returncode == 2, output
    assert "cannot run no-such-program" in output
