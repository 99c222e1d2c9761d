"""What the reports have in common: the figures of a run, the command that repeats a case, text that is fit to print."""

from __future__ import annotations

import platform
import re
import shlex
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from ..proxy import Line
from ..run import GREEN, PASS, VERDICTS, Result
from ..session import Session, requirements

ARROW: Final = " → "
"""Between client and server in the driver of a cross result."""
STATES: Final = ("proven", "covered", "uncovered", "excluded")

_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    """Text of a port with its control characters and lone surrogates written out: no terminal or XML parser obeys them."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}" if ord(found[0]) < 256 else f"\\u{ord(found[0]):04x}", text)


def area(case_id: str) -> str:
    """The file or family that a case belongs to: server/lease of server/lease/before-the-first-take."""
    return case_id.rpartition("/")[0]


def repeat_command(session: Session, result: Result) -> str:
    """The command that runs this case again."""
    names = result.driver.split(ARROW)
    paths = {manifest.name: str(manifest.path) for manifest in session.manifests}
    words = ["sabir-conformance", "run"]
    for name in dict.fromkeys(names):
        words += ["--driver", paths.get(name, f"{name}/driver.json")]
    options = session.options
    if options.profile != "core":
        words += ["--profile", options.profile]
    if options.redis != "embedded":
        words += ["--redis", re.sub(r"(://[^:@/]*:)[^@/]+(?=@)", r"\1***", options.redis)]
    return shlex.join([*words, "-k", result.case["id"]])


def wire(line: Line) -> str:
    """A line of the transcript, as text: milliseconds, connection, direction, what."""
    return printable(f"{line.at * 1000:8.1f} {line.who:>6} {line.kind} {line.text}")


def own(session: Session) -> list[Result]:
    """Results of one driver alone."""
    return [result for result in session.results if ARROW not in result.driver]


def drivers(session: Session) -> list[str]:
    """Their names, in the order in which they were given."""
    return [manifest.name for manifest in session.manifests]


def grid(session: Session) -> dict[tuple[str, str], list[int]]:
    """(client, server) → passed, total."""
    found: dict[tuple[str, str], list[int]] = {}
    for result in session.results:
        client, arrow, server = result.driver.partition(ARROW)
        if arrow:
            cell = found.setdefault((client, server), [0, 0])
            cell[0] += result.verdict == PASS
            cell[1] += 1
    return found


def areas(session: Session) -> dict[str, dict[str, Counter[str]]]:
    """Area → driver → its results by verdict. Without the grid."""
    found: dict[str, dict[str, Counter[str]]] = {}
    for result in own(session):
        found.setdefault(area(result.case["id"]), {}).setdefault(result.driver, Counter())[result.verdict] += 1
    return dict(sorted(found.items()))


def kills(mutants: dict[str, Any] | None) -> dict[str, list[str]] | None:
    """Rule → its mutants that were killed, from mutants.json; None if the mutants were not run."""
    return None if mutants is None else mutants["kills"]


def coverage(mutants: dict[str, Any] | None = None) -> dict[str, int]:
    """Requirements by state."""
    states = Counter(requirement.state for requirement in requirements(kills(mutants)))
    return {state: states[state] for state in STATES}


def partial(session: Session) -> bool:
    """Whether only some of the cases were chosen."""
    options = session.options
    return bool(options.keyword or options.smoke or session.interrupted or len(options.roles) < 3)


def installed(package: str) -> str:
    """The version of a Python package; empty: it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def suite_version() -> str:
    return installed("sabir-conformance") or "unknown"


def summary(session: Session, mutants: dict[str, Any] | None = None) -> dict[str, Any]:
    """summary.json: the run in figures."""
    per_area = areas(session)
    rows = {}
    for name in drivers(session):
        results = [result for result in own(session) if result.driver == name]
        hello = session.hellos.get(name, {})
        rows[name] = {
            "port": hello.get("name", ""),
            "version": hello.get("version", ""),
            "language": hello.get("language", ""),
            "passed": sum(result.verdict == PASS for result in results),
            "total": len(results),
            "verdicts": _by_verdict(results),
            "areas": {
                place: [counts[name][PASS], counts[name].total()] for place, counts in per_area.items() if name in counts
            },
            "seconds": round(session.phases.get(name, 0.0), 2),
        }
    redis, _, where = session.redis.rstrip(")").partition(" (")
    return {
        "suite": suite_version(),
        "python": platform.python_version(),
        "profile": session.options.profile,
        "partial": partial(session),
        "redis": redis,
        "redis_from": where,
        "seed": session.seed,
        "began": session.began.isoformat(timespec="seconds"),
        "seconds": round(session.seconds, 2),
        "green": session.green,
        "planned": session.planned,
        "verdicts": session.counts,
        "requirements": coverage(mutants),
        "drivers": rows,
        "grid": [[client, server, passed, total] for (client, server), (passed, total) in grid(session).items()],
    }


def _by_verdict(results: list[Result]) -> dict[str, int]:
    counts = Counter(result.verdict for result in results)
    return {verdict: counts[verdict] for verdict in VERDICTS if counts[verdict]}


def failures(session: Session) -> list[Result]:
    """Results that are not green."""
    return [result for result in session.results if result.verdict not in GREEN]


def sums(session: Session) -> str:
    """``586 planned = 585 pass + 1 fail``; it says so when some have no verdict."""
    counts = " + ".join(f"{number} {verdict}" for verdict, number in session.counts.items() if number)
    missing = session.planned - len(session.results)
    if missing:
        counts = " + ".join(filter(None, [counts, f"{missing} without a verdict"]))
    return f"{session.planned} planned = {counts or 'nothing'}"


def speed(session: Session) -> str:
    """How long what took."""
    phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in session.phases.items())
    slow = sorted(session.results, key=lambda result: -result.seconds)[:1]
    slowest = f"; slowest {slow[0].case['id']} ({slow[0].driver}) {slow[0].seconds:.1f} s" if slow else ""
    return f"{session.seconds:.1f} s{f' ({phases})' if phases else ''}{slowest}"
