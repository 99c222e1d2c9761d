"""The model of profile `reliable`: every run finds what it is to find, and the rationale shows what they found."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest
from conftest import PROTOCOL, TOP

sys.path.insert(0, str(PROTOCOL / "model"))

import check
import model

RATIONALE = PROTOCOL / "rationale.md"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "protocol/model", *arguments], cwd=TOP, capture_output=True, text=True, check=False
    )


def test_every_run_finds_what_it_is_to_find_and_the_rationale_shows_it() -> None:
    done = command("--table")
    assert (done.returncode, done.stderr) == (0, "")
    block = re.search(r"<!-- model -->\n(.*)<!-- /model -->", RATIONALE.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None, "protocol/rationale.md: expected a block between <!-- model --> and <!-- /model -->"
    assert block[1] == done.stdout, (
        "protocol/rationale.md: put what `python protocol/model --table` prints between the marks"
    )


def test_every_rule_is_taken_away_in_a_run() -> None:
    whole = model.Rules()
    switches = {field.name for field in dataclasses.fields(model.Rules) if getattr(whole, field.name)}
    taken_away = {name for run in check.ABLATIONS for name in switches if getattr(run.rules, name) != getattr(whole, name)}
    assert taken_away == switches


def test_the_protocol_is_whole_where_it_is_said_to_be() -> None:
    assert {run.rules for run in [*check.WHOLE, *check.ASSUMPTIONS]} == {model.Rules()}


def test_no_two_runs_have_one_name() -> None:
    names = [run.name for run in check.RUNS]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("name", ["notification", "call-full"])
def test_what_happens_by_itself_goes_round_in_no_circle(name: str) -> None:
    run = next(run for run in check.RUNS if run.name == name)
    here = model.Model(run.scenario, run.rules)
    start = check.canonical(here.initial())
    follows: dict[int, set[int]] = {hash(start): set()}
    todo = [start]
    while todo:
        state = todo.pop()
        for by_itself, steps in ((True, here.progress(state)), (False, here.events(state))):
            for _, reached in steps:
                after = check.canonical(reached)
                if hash(after) not in follows:
                    follows[hash(after)] = set()
                    todo.append(after)
                if by_itself and after != state:
                    follows[hash(state)].add(hash(after))
    assert len(follows) == run.go().states
    TopologicalSorter(follows).prepare()  # raises CycleError


def test_refusing_in_one_step_with_a_look_at_the_hand_helps_where_workers_differ() -> None:
    run = next(run for run in check.ASSUMPTIONS if run.name == "different-workers")
    scenario = dataclasses.replace(run.scenario, failures=1)
    assert check.search(model.Model(scenario, run.rules)).fault == run.fault
    assert check.search(model.Model(scenario, dataclasses.replace(run.rules, refuse_what_is_held=True))).fault == ""


def test_a_verdict_says_what_was_expected_and_what_was_found() -> None:
    run = check.Run("x", model.Scenario((model.CALL,)), fault="a call runs twice")
    assert check.verdict(run, check.Found(1, "a call runs twice", ("a", "b"))) == (True, "a call runs twice, in 2 steps")
    assert check.verdict(run, check.Found(1)) == (
        False,
        "expected a call runs twice, found: nothing is wrong in any state",
    )


def test_a_trace_is_numbered_and_ends_with_what_is_wrong() -> None:
    done = command("--trace", "hasty-recovery")
    assert done.returncode == 0
    assert [line[:6] for line in done.stdout.splitlines()[1:-1]] == [f"{n:4}. " for n in range(1, 5)]
    assert done.stdout.splitlines()[-1] == "a worker that lives is robbed of its hand, in 4 steps"


def test_some_runs_are_shown_as_a_table() -> None:
    done = command("--run", "unwatched", "--run", "call-full")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()[1:-1]] == ["unwatched", "call-full"]


def test_a_run_that_does_not_exist_is_an_error() -> None:
    done = command("--run", "nothing")
    assert done.returncode == 2
    assert done.stderr.endswith("no run named 'nothing'; --list names them\n")


def test_the_list_names_every_run() -> None:
    done = command("--list")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith(" ")] == [
        run.name for run in check.RUNS
    ]
