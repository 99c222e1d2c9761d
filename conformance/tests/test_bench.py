"""The benchmark: what is exact about it (commands and writes of a call), its judgement, its files, its command."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sabir_conformance import bench
from sabir_conformance.bench import report as bench_report
from sabir_conformance.bench.contestant import contestants
from sabir_conformance.bench.measure import Bench, Measured, Outcome, Round, judge
from sabir_conformance.bench.scenarios import GOALS, SCENARIOS, Entry, Goal, Scenario
from sabir_conformance.cli import main
from sabir_conformance.server import provide

CALLS, TRIES = 50, 40
ONE = {"in_flight": 1, "bytes": 100}

# The client: what removes the reply before, RPUSH, EXISTS, the look. The worker: MULTI to EXEC, and with it ZADD, BLMOVE.
THIN = {"rpush": 2, "exists": 1, "blmove": 2, "multi": 1, "pexpire": 1, "lrem": 1, "exec": 1, "zadd": 1}
COMMANDS: dict[str, tuple[dict[str, int], int]] = {
    "sabir-python": ({**THIN, "del": 1}, 2),
    # Asks every other time for one element more; in the end, removes a reply.
    "sabir-asyncio": ({**THIN, "ltrim": 1, "lrange": 1, "lmove": 0.5}, 2 + 1 / CALLS),
    "sabir-ruby": ({**THIN, "del": 1}, 2),
    "sabir-node": ({**THIN, "ltrim": 1}, 2),
}


async def counted(name: str, where: str) -> AsyncIterator[tuple[dict[str, float], float]]:
    """The commands of a call, and the reads of the server, each a write of client or worker; again and again."""
    with provide(where) as redis:
        connection = await redis.connect()
        board = Bench(redis, connection, None, contestants(), lambda _: None)
        pair = await board.pair(Entry(name, ONE))
        try:
            while True:
                await connection.run("CONFIG", "RESETSTAT")
                await pair.client.ask({**ONE, "calls": CALLS}, 10)
                stats = (await connection.run("INFO", "commandstats")).decode().split()
                reads = (await connection.run("INFO", "stats")).decode().split()
                found = {
                    key.removeprefix("cmdstat_"): int(rest.partition("calls=")[2].partition(",")[0]) / CALLS
                    for key, _, rest in (line.partition(":") for line in stats if line.startswith("cmdstat_"))
                }
                read = next(int(line.partition(":")[2]) for line in reads if line.startswith("total_reads_processed:"))
                own = {"config|resetstat", "info"}
                yield {command: count for command, count in found.items() if command not in own}, (read - 2) / CALLS
        finally:
            await pair.end()
            await connection.close()


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_and_writes_of_a_call(name: str) -> None:
    """Exactly; in one of many tries, as a heartbeat, or a handler that the machine holds up, adds to them."""

    async def tries() -> None:
        async with contextlib.aclosing(counted(name, "embedded")) as counts:
            tried = 0
            async for commands, writes in counts:
                tried += 1
                expected, fewest = COMMANDS[name]
                most = fewest
                if name == "sabir-node":  # a turn of the loop that ends in between is a write more; an element more is luck
                    commands.pop("lmove", None)
                    most += 5 / CALLS
                if tried == TRIES or (commands == expected and fewest <= writes <= most):
                    assert commands == expected
                    assert fewest <= writes <= most
                    return

    asyncio.run(tries())


# ---------------------------------------------------------------------------------------------------- the judgement


def measured(**rounds: list[float]) -> dict[str, Measured]:
    made = Measured(Scenario("one", "one", ()))
    for name, values in rounds.items():
        made.rounds[name] = [Round(100, 1.0, value, value, value, value, value) for value in values]
    return {"one": made}


def test_a_goal_is_the_median_of_the_ratios_of_the_rounds() -> None:
    goal = Goal("x", "one", "mine", "theirs", "p50_us", 1.5)
    outcome = judge(goal, measured(mine=[10, 30, 20], theirs=[10, 10, 10]))
    assert (outcome.value, outcome.best, outcome.state) == (2.0, 1.0, "missed")
    assert bench.Report({}, outcomes=[outcome]).over(1) == []  # it holds beside other work, too
    assert judge(goal, measured(mine=[10, 30, 20], theirs=[10, 25, 20])).state == "met"
    times = Goal("x", "one", "mine", "theirs", "p50_us", 2.0, at_least=True)
    assert judge(times, measured(mine=[10, 10], theirs=[25, 25])).value == 2.5


def test_what_was_not_measured_is_no_success() -> None:
    goal = Goal("x", "one", "mine", "theirs", "p50_us", 1.5)
    found = measured(mine=[10])
    found["one"].absent["theirs"] = "not installed"
    outcome = judge(goal, found)
    assert (outcome.value, outcome.state, outcome.why) == (None, "not run", "not installed")
    report = bench.Report({}, outcomes=[outcome, Outcome("y", 2, True, 1.5), Outcome("z", 2, False, 3)])
    assert report.over(1.2) == [
        "x: not measured: not installed",
        "y: 1.50 × at best, its bound is 2, times 1.2",
        "z: 3.00 × at best, its bound is 2, times 1.2",
    ]
    assert report.over(1.6) == ["x: not measured: not installed"]


def test_goals_and_scenarios_fit() -> None:
    entries = {scenario.id: {entry.name for entry in scenario.entries} for scenario in SCENARIOS}
    for goal in GOALS:
        assert {goal.entry, goal.to} <= entries[goal.scenario]
    known = contestants()
    assert all(entry.contestant in known for scenario in SCENARIOS for entry in scenario.entries)


# ---------------------------------------------------------------------------------------------------- the command


def test_a_run_and_its_files(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{bench_report.BEGIN}\nold\n{bench_report.END}\nafter\n", "utf-8")
    options = ["--rounds=1", "--seconds=0.1", "--only=one", "--who=floor-python", "--who=sabir-python"]
    run = CliRunner().invoke(main, ["bench", *options, f"--out={tmp_path}", f"--readme={readme}"])
    assert run.exit_code == 0, run.output
    data: dict[str, Any] = json.loads((tmp_path / "bench.json").read_text("utf-8"))
    assert set(data["scenarios"]["one"]["rounds"]) == {"floor-python", "sabir-python"}
    assert {outcome["what"]: outcome["state"] for outcome in data["outcomes"]}["Node, one call after another"] == "not run"
    assert "| **Sabir, Python** |" in (tmp_path / "bench.md").read_text("utf-8")
    text = readme.read_text("utf-8")
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert "| **Sabir, Python** |" in text
    assert "old" not in text


def test_a_contestant_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    known = contestants()
    broken = {**known, "sabir-python": type(known["sabir-python"])("sabir-python", "Sabir", "python", "none.py", "sabir")}
    monkeypatch.setattr(bench, "contestants", lambda: broken)
    run = CliRunner().invoke(
        main, ["bench", "--rounds=1", "--seconds=0.1", "--only=one", "--who=sabir-python", "--guard=2"]
    )
    assert run.exit_code == 1
    assert "expected ready, got ''" in run.output
    assert "none.py" in run.output


@pytest.mark.parametrize(
    "arguments",
    [["--only=two"], ["--redis=redis://127.0.0.1"], ["--readme=README.md"], ["--redis=no-server"], ["--guard=0.5"]],
)
def test_wrong_options(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, ["bench", *arguments]).exit_code == 2
