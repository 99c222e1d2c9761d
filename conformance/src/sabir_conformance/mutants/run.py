"""Runs the suite against every mutant, several side by side, and says which rules are thereby proven."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import fnmatch
import functools
import importlib.util
import json
import multiprocessing
import operator
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..driver import DriverError, Manifest
from ..run import CASE_LIMIT, FAIL, HARNESS, PASS, Result, run_driver
from ..server import Redis, provide
from ..session import Requirement, requirements
from ..suite import all_cases
from . import CONTROLS, VARIABLE, Mutant, all_mutants

DRIVER: Final = Path(__file__).parents[3] / "drivers" / "python" / "driver.json"
SAMPLE: Final = 8
"""How many cases that have nothing to do with a mutant are run with it."""

AGAIN: Final = 10
"""How many mutants that were not killed are tried a second time."""

KILLED, SURVIVED, VOID, CONTROL, FOREIGN = "killed", "survived", "void", "control", "foreign"
MEANING: Final = {
    KILLED: "the case named for it failed by assertion",
    SURVIVED: "the case named for it passed",
    VOID: "the case named for it, or the driver, broke instead of failing",
    CONTROL: "the control did not pass",
    FOREIGN: "cases failed that have nothing to do with its rule",
}


@dataclass(slots=True)
class Trial:
    """How the suite fared with a mutant."""

    mutant: str
    rule: str
    killed_by: str
    about: str
    state: str = VOID
    reason: str = ""
    seconds: float = 0.0
    ran: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Case → why it failed."""
    foreign: list[str] = field(default_factory=list)
    first_try: str = ""
    """What came of it beside others, where it was tried again alone."""


# ------------------------------------------------------------------------------------------------ one mutant


def is_long(case: dict[str, Any]) -> bool:
    """Whether a case takes more than about two seconds, when it passes or when it fails."""

    def slow(step: dict[str, Any]) -> bool:
        ((name, spec),) = step.items()
        if not isinstance(spec, dict):
            return False
        return (
            (name == "pause" and spec["ms"] >= 1000)
            or (name == "rule" and spec["do"] == "silence")
            or (name not in {"outcome", "stop"} and spec.get("within_s", 0) >= 4)
        )

    return case.get("slow", False) or "limit_s" in case or any(map(slow, case["steps"]))


@functools.cache
def sample(role: str) -> tuple[str, ...]:
    """Cases of a role, the same ones in every run: some of each file."""
    files: dict[str, list[str]] = {}
    for case in all_cases():
        if case["role"] == role and not is_long(case) and not case.get("alone"):
            files.setdefault(case["id"].rpartition("/")[0], []).append(case["id"])
    chance = random.Random(1)  # noqa: S311 - the same in every run
    for ids in files.values():
        chance.shuffle(ids)
    rounds = [ids[n] for n in range(SAMPLE) for ids in files.values() if n < len(ids)]
    return tuple(rounds[:SAMPLE])


def cases_for(mutant: Mutant) -> list[dict[str, Any]]:
    """Its killer, the control, what cites its rule, and of the sample what must not fail."""
    needed, others = {mutant.killed_by, CONTROLS[mutant.role]}, sample(mutant.role)
    return [
        case
        for case in all_cases()
        if case["id"] in needed
        or (case["role"] == mutant.role and mutant.rule in case["rules"] and not is_long(case))
        or (case["id"] in others and not _is_expected(case, mutant))
    ]


def _is_expected(case: dict[str, Any], mutant: Mutant) -> bool:
    return any(
        fnmatch.fnmatchcase(name, pattern)
        for pattern in (mutant.rule, mutant.killed_by, *mutant.also)
        for name in (case["id"], *case["rules"])
    )


def judge(mutant: Mutant, results: list[Result]) -> Trial:
    """What the results say of a mutant."""
    trial = Trial(mutant.name, mutant.rule, mutant.killed_by, mutant.about, ran=len(results))
    by_case = {result.case["id"]: result for result in results}
    killer, control = by_case[mutant.killed_by], by_case[CONTROLS[mutant.role]]
    trial.failed = {r.case["id"]: r.reason for r in results if r.verdict == FAIL}
    trial.foreign = sorted(r.case["id"] for r in results if r.verdict == FAIL and not _is_expected(r.case, mutant))
    broken = [r for r in results if r.verdict == HARNESS or r.reason.startswith("the process ended")]
    if control.verdict != PASS:
        trial.state, trial.reason = CONTROL, f"{control.case['id']}: {control.reason}"
    elif killer.verdict == PASS:
        trial.state, trial.reason = SURVIVED, f"{killer.case['id']} passed"
    elif killer.verdict != FAIL or killer.reason.startswith(("the process ended", "the case did not end")):
        trial.state, trial.reason = VOID, f"{killer.case['id']}: {killer.verdict}: {killer.reason}"
    elif broken:
        trial.state, trial.reason = VOID, f"{broken[0].case['id']}: {broken[0].reason}"
    elif trial.foreign:
        trial.state = FOREIGN
        trial.reason = "; ".join(f"{id}: {trial.failed[id]}" for id in trial.foreign)
    else:
        trial.state, trial.reason = KILLED, killer.reason
    return trial


def with_mutant(manifest: Manifest, name: str) -> Manifest:
    """The Python driver's manifest, changed to run it with a mutant."""
    script = next(word for word in manifest.argv if word.endswith(".py"))
    argv = [sys.executable, "-m", "sabir_conformance.mutants", script]
    return dataclasses.replace(manifest, name=name, argv=argv, env={**manifest.env, VARIABLE: name})


def try_mutant(name: str, manifest: Manifest, redis: Redis) -> Trial:
    """Run the cases for a mutant; in a process of the pool."""
    mutant = all_mutants()[name]
    results: list[Result] = []
    begin = time.monotonic()
    cases = cases_for(mutant)
    asyncio.run(run_driver(with_mutant(manifest, name), mutant.role, cases, redis, results.append, at_once=10, again=1))
    trial = judge(mutant, results)
    trial.seconds = time.monotonic() - begin
    return trial


# ------------------------------------------------------------------------------------------------ all of them


def chosen(keyword: str) -> list[Mutant]:
    """The mutants whose name, rule or case holds the words. Raises DriverError where the Python port is not installed."""
    if importlib.util.find_spec("sabir") is None:
        raise DriverError("the mutants are of the Python port: install it beside the suite (pip install sabir)")
    found = [
        m
        for m in all_mutants().values()
        if not keyword or any(keyword.lower() in text.lower() for text in (m.name, m.rule, m.killed_by))
    ]
    # Those that wait, the longest first, spread evenly among those that compute.
    waits = {case["id"]: case.get("limit_s", CASE_LIMIT) for case in all_cases() if is_long(case)}
    waiting = sorted((m for m in found if m.killed_by in waits), key=lambda m: -waits[m.killed_by])
    computing = [m for m in found if m.killed_by not in waits]
    places = [(n / len(group), m) for group in (waiting, computing) for n, m in enumerate(group)]
    return [m for _, m in sorted(places, key=operator.itemgetter(0))]


def trials(mutants: list[Mutant], manifest: Manifest, redis: Redis, jobs: int) -> Iterator[Trial]:
    """Try the mutants, ``jobs`` side by side, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(max(1, min(jobs, len(mutants))), mp_context=context)
    try:
        futures = [pool.submit(try_mutant, mutant.name, manifest, redis) for mutant in mutants]
        for future in concurrent.futures.as_completed(futures):
            yield future.result()
        pool.shutdown()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def kills(done: list[Trial]) -> dict[str, list[str]]:
    """Rule → the mutants of it that were killed."""
    found: dict[str, list[str]] = {}
    for trial in done:
        if trial.state == KILLED:
            found.setdefault(trial.rule, []).append(trial.mutant)
    return found


def idle_cases(done: list[Trial]) -> list[str]:
    """The cases that no mutant has made fail."""
    failed = {id for trial in done for id in trial.failed}
    return [case["id"] for case in all_cases() if case["id"] not in failed]


def unproven(killed: dict[str, list[str]]) -> list[Requirement]:
    """The MUSTs that are neither proven nor excluded."""
    return [rule for rule in requirements(killed) if "MUST" in rule.text and rule.state not in {"proven", "excluded"}]


def default_jobs() -> int:
    """So many mutants side by side: most of their time they wait."""
    return 6 * (os.cpu_count() or 2)


def run(
    console: Console,
    *,
    driver: Path = DRIVER,
    keyword: str = "",
    where: str = "embedded",
    jobs: int | None = None,
    jsonl: Path | None = None,
    out: Path | None = None,
    require_proven: bool = False,
) -> bool:
    """Try the mutants, print the table, write the files. Returns whether all is well. Raises DriverError, ServerError."""
    manifest, mutants = Manifest.read(driver), chosen(keyword)
    if not mutants:
        raise DriverError(f"no mutant fits {keyword!r}")
    begin, done = time.monotonic(), []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        provide(where) as redis,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("mutants", total=len(mutants))
        for trial in trials(mutants, manifest, redis, jobs or default_jobs()):
            done.append(trial)
            bar.update(task, advance=1)
        # What the load of the others may have spoiled is tried again without them.
        bad = {trial.mutant: f"{trial.state}: {trial.reason}" for trial in done if trial.state != KILLED}
        if 0 < len(bad) <= AGAIN:
            done = [trial for trial in done if trial.state == KILLED]
            for trial in trials([mutant for mutant in mutants if mutant.name in bad], manifest, redis, 1):
                trial.first_try = bad[trial.mutant]
                done.append(trial)
    seconds = time.monotonic() - begin
    done.sort(key=lambda trial: (trial.rule, trial.mutant))
    killed, idle = kills(done), idle_cases(done)
    console.print(_table(done))
    for trial in done:
        if trial.state != KILLED:
            console.print(f"{trial.state}: {trial.mutant}: {trial.reason}", markup=False, highlight=False, style="red")
    good = all(trial.state == KILLED for trial in done)
    counts = ", ".join(f"{n} {state}" for state in MEANING if (n := sum(trial.state == state for trial in done)))
    again = sum(bool(trial.first_try) for trial in done)
    console.print(
        f"{len(done)} mutants = {counts}; {seconds:.1f} s" + (f"; {again} tried again alone" if again else ""),
        highlight=False,
    )
    if not keyword:
        console.print(f"{len(idle)} of {len(all_cases())} cases killed nothing", highlight=False)
        missing = unproven(killed)
        for rule in missing:
            console.print(f"not proven: {rule.id} ({rule.state}, {len(rule.cases)} cases)", markup=False, highlight=False)
        good = good and not (require_proven and missing)
    if jsonl is not None:
        lines = [json.dumps(dataclasses.asdict(trial), ensure_ascii=False) for trial in done]
        jsonl.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    if out is not None:
        out.write_text(_as_json(done, killed, idle, seconds), encoding="utf-8")
    return good


def _table(done: list[Trial]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("mutant", "rule", "killed by", "failed"):
        table.add_column(name, justify="right" if name == "failed" else "left", overflow="fold")
    table.add_column("state")
    for t in done:
        table.add_row(
            t.mutant,
            t.rule,
            t.killed_by,
            f"{len(t.failed)} of {t.ran}",
            t.state,
            style=None if t.state == KILLED else "red",
        )
    return table


def _as_json(done: list[Trial], killed: dict[str, list[str]], idle: list[str], seconds: float) -> str:
    return json.dumps(
        {
            "seconds": round(seconds, 1),
            "kills": killed,
            "mutants": [{**dataclasses.asdict(trial), "seconds": round(trial.seconds, 2)} for trial in done],
            "kill_nothing": idle,
        },
        ensure_ascii=False,
        indent=1,
    )


def read_kills(path: Path) -> dict[str, list[str]]:
    """What was killed, of a mutants.json. Raises DriverError for another file."""
    try:
        found: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))["kills"]
    except (ValueError, KeyError, TypeError):
        raise DriverError(f"{path}: expected what sabir-conformance mutants --out writes") from None
    return found
