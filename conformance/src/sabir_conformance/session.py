"""A whole run: which cases with which drivers, on which Redis; what came of it; known failures; the requirements."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import fnmatch
import json
import random
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from . import cross
from .driver import Driver, Manifest
from .resp import RedisError
from .run import FAIL, GREEN, HARNESS, KNOWN, PASS, STALE, VERDICTS, Result, run_driver
from .schemas import protocol_folder, validate
from .server import Redis, ServerError, software
from .suite import all_cases

_RULE: Final = re.compile(r"^#### (SABIR-[A-Z]+-[0-9]+)\n> (.*)$", re.MULTILINE)


AGAIN: Final = 2
"""How often a case is run again that failed while the machine stopped the runner."""


@dataclass(slots=True)
class Options:
    """What is to be run."""

    profile: str = "core"
    keyword: str = ""
    roles: tuple[str, ...] = ("server", "client", "cross")
    smoke: bool = False
    repeat: int = 1
    seed: int | None = None
    fail_fast: bool = False
    at_once: int = 12
    known: Path | None = None
    attach: bool = False
    redis: str = "embedded"
    """As it was asked for: embedded, container…, or a URL."""


@dataclass(slots=True)
class Session:
    """A run and its results; what the reports are made from."""

    options: Options
    manifests: list[Manifest]
    redis: str = ""
    began: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))
    seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds by driver, and for "cross"."""
    seed: int = 0
    planned: int = 0
    results: list[Result] = field(default_factory=list)
    hellos: dict[str, dict[str, Any]] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """Results by verdict; their sum is what was planned."""
        return {verdict: sum(r.verdict == verdict for r in self.results) for verdict in VERDICTS}

    @property
    def green(self) -> bool:
        """Whether all went well: something was run, all that was planned has a verdict, and every verdict is a good one."""
        ran = sum(r.verdict == PASS for r in self.results)
        return ran > 0 and len(self.results) == self.planned and all(r.verdict in GREEN for r in self.results)


def select(options: Options, manifest: Manifest) -> list[dict[str, Any]]:
    """The cases that a driver is to be run with."""
    profiles = {"core": ("core",), "reliable": ("core", "reliable"), "managed": ("core", "reliable", "managed")}
    return [
        case
        for case in all_cases()
        if case["profile"] in profiles[options.profile]
        and case["role"] in options.roles
        and case["role"] in manifest.roles
        and (not options.smoke or case.get("smoke"))
        and matches(case, options.keyword)
    ]


def matches(case: dict[str, Any], keyword: str) -> bool:
    """Whether a case's id, title or rules hold the words, or fit the pattern."""
    if not keyword:
        return True
    texts = [case["id"], case["title"], *case["rules"]]
    return any(keyword.lower() in text.lower() or fnmatch.fnmatchcase(text, keyword) for text in texts)


async def run(session: Session, redis: Redis, report: Callable[[Result], None]) -> None:
    """Run everything that the session's options ask for. Results go to the session, and to ``report`` one by one."""
    options = session.options
    session.seed = options.seed if options.seed is not None else random.randrange(1 << 31)  # noqa: S311 - no secret
    session.redis, redis = await _meet(redis)
    begin = time.monotonic()
    known = Known.read(options.known) if options.known else Known([])
    stop = asyncio.Event()

    def take(result: Result) -> None:
        scrub(result)
        known.apply(result)
        session.results.append(result)
        if options.fail_fast and result.verdict not in GREEN:
            stop.set()
        report(result)

    plan: list[tuple[Manifest, str, list[dict[str, Any]]]] = []
    for manifest in session.manifests:
        cases = select(options, manifest) * options.repeat
        random.Random(session.seed).shuffle(cases)  # noqa: S311 - the order, from the seed
        cases.sort(key=_waits, reverse=True)  # what waits most begins first, beside the others
        plan += [(manifest, role, [c for c in cases if c["role"] == role]) for role in ("server", "client")]
    pairs = cross.pairs(session.manifests) if "cross" in options.roles else []
    crossed = [
        case for case in cross.cases() if matches(case, options.keyword) and (not options.smoke or case.get("smoke"))
    ]
    session.planned = sum(len(cases) for _, _, cases in plan) + len(pairs) * len(crossed) * options.repeat

    def met(driver: Driver) -> None:
        session.hellos[driver.manifest.name] = driver.hello
        if options.attach:
            input(f"{driver.title} has the process id {driver.pid}: attach a debugger, then press Enter. ")

    async def phase(name: str, which: list[tuple[Manifest, str, list[dict[str, Any]]]]) -> None:
        """Run cases, of all these ports and roles side by side."""
        since = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for manifest, role, cases in which:
                if cases:
                    where = (manifest, role, cases, redis, take)
                    group.create_task(run_driver(*where, at_once=options.at_once, fail_fast=stop, attach=met, again=AGAIN))
        session.phases[name] = time.monotonic() - since

    try:
        for port in session.manifests:  # one after the other
            await phase(
                port.name, [(m, role, [c for c in cases if not c.get("slow")]) for m, role, cases in plan if m is port]
            )
        slow = [(m, role, [c for c in cases if c.get("slow")]) for m, role, cases in plan]
        if any(cases for _, _, cases in slow):  # these wait, so the ports wait together
            await phase("slow cases of all", slow)
        if pairs and crossed:
            since = time.monotonic()
            await cross.run(pairs, crossed * options.repeat, redis, take, stop)
            session.phases["cross"] = time.monotonic() - since
    except asyncio.CancelledError:
        session.interrupted = True
        raise
    finally:
        session.seconds = time.monotonic() - begin


_LOGIN: Final = re.compile(r"(\brediss?://[^:@/\s\"]*:)[^@/\s\"]+(?=@)")
_AUTH: Final = re.compile(r"(\bAUTH (?:\S+ (?=\S))?)\S+", re.IGNORECASE)


def scrub(result: Result) -> None:
    """Take passwords out of all that a report may show: with --redis URL they are somebody's own."""

    def clean(text: str) -> str:
        return _LOGIN.sub(r"\1***", text)

    result.reason = clean(result.reason)
    for line in result.transcript:
        if line.kind == ">":
            line.text = _AUTH.sub(r"\1***", line.text)
    result.dialogue = [clean(line) for line in result.dialogue]
    result.stderr = [clean(line) for line in result.stderr]


def _waits(case: dict[str, Any]) -> float:
    """Seconds for which a case lets time pass, about."""
    seconds = float(case.get("limit_s", 0.0)) if case.get("slow") else 0.0
    for step in case["steps"]:
        ((name, spec),) = step.items()
        if name == "pause":
            seconds += spec["ms"] / 1000
        elif name in {"wire", "reply", "key", "fired", "cut"} and isinstance(spec, dict):
            seconds += spec.get("within_s", 0.0) / 2
        elif name == "rule":
            seconds += 2.0 if spec["do"] in {"silence", "cut after", "cut within"} else 0.5
    return seconds


async def _meet(redis: Redis) -> tuple[str, Redis]:
    """What the Redis is, and what it lets the runner do. Raises ServerError where the suite can't run."""
    try:
        connection = await redis.connect()
        name = software(await connection.run("INFO", "server"))
        user = f"t{secrets.token_hex(6)}"
        # Each port gets a user that is confined to the keys of its case: where that can't be, stray keys go unseen.
        users, patterns = await connection.run_all([("ACL", "SETUSER", user, "reset"), ("ACL", "SETUSER", user, "%W~x")])
        await connection.run_all([("ACL", "DELUSER", user)])
        await connection.close()
    except Exception as error:
        raise ServerError(f"{redis.name}: {error}") from error
    acl, write_only = (not isinstance(answer, RedisError) for answer in (users, patterns))
    note = "" if acl else "; no ACL users here: keys that a port must not touch go unseen"
    return f"{name} ({redis.name}{note})", dataclasses.replace(redis, acl=acl, write_only_patterns=write_only)


# ---------------------------------------------------------------------------------------------------- known failures


@dataclass(slots=True)
class Known:
    """Failures that are expected: they still run; one that passes, or fails in another way, is not green."""

    entries: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> Known:
        """Read the file. Raises ServerError, naming what is wrong with it."""
        data = json.loads(path.read_text(encoding="utf-8"))
        fault = validate("known", data)
        if fault:
            raise ServerError(f"{path}: {fault}")
        return cls(data["known"])

    def apply(self, result: Result) -> None:
        """Change the verdict of a case that is known to fail."""
        for entry in self.entries:
            if entry["case"] != result.case["id"] or entry.get("driver", result.driver) != result.driver:
                continue
            if datetime.date.fromisoformat(entry["expires"]) < datetime.datetime.now(datetime.UTC).date():
                if result.verdict != PASS:
                    result.reason = f"known ({entry['reason']}), but only until {entry['expires']}: {result.reason}"
            elif result.verdict == PASS:
                result.verdict, result.reason = STALE, f"passes, but is known to fail: {entry['reason']}"
            elif result.verdict == FAIL and entry["signature"] in result.reason:
                result.verdict, result.reason = KNOWN, f"{entry['reason']}: {result.reason}"
            return


# ---------------------------------------------------------------------------------------------------- requirements


@dataclass(slots=True)
class Requirement:
    """A rule of the specification, and what is known of it."""

    id: str
    text: str
    cases: list[str]
    state: str
    """proven, covered, uncovered, or excluded."""
    note: str = ""


def requirements(kills: dict[str, list[str]] | None = None) -> list[Requirement]:
    """Every rule: proven (a mutant that breaks it is killed), covered (a case cites it), uncovered, excluded with a reason.

    ``kills``: rule → the mutants of it that were killed; None: the mutants were not run.
    """
    spec = (protocol_folder() / "spec.md").read_text(encoding="utf-8")
    excluded = json.loads((Path(__file__).parent / "excluded.json").read_text(encoding="utf-8"))["excluded"]
    citing: dict[str, list[str]] = {}
    for case in [*all_cases(), *cross.cases()]:
        for rule in case["rules"]:
            citing.setdefault(rule, []).append(case["id"])
    found = []
    for id, text in _RULE.findall(spec):
        cases = citing.get(id, [])
        killed = (kills or {}).get(id, [])
        if id in excluded:
            state, note = "excluded", excluded[id]
        elif killed and cases:
            state, note = "proven", ", ".join(killed)
        else:
            state, note = ("covered" if cases else "uncovered"), ""
        found.append(Requirement(id, text, cases, state, note))
    return found


def strays() -> list[str]:
    """Rules that cases or exclusions cite and the specification does not have."""
    known = {requirement.id for requirement in requirements()}
    cited = {rule for case in [*all_cases(), *cross.cases()] for rule in case["rules"]}
    excluded = json.loads((Path(__file__).parent / "excluded.json").read_text(encoding="utf-8"))["excluded"]
    return sorted((cited | set(excluded)) - known)


__all__ = [
    "GREEN",
    "HARNESS",
    "Known",
    "Options",
    "Requirement",
    "Session",
    "requirements",
    "run",
    "scrub",
    "select",
    "strays",
]
