"""JUnit XML: a test suite for each driver (or pair), a test case for each result."""

from __future__ import annotations

import xml.etree.ElementTree as Tree
from pathlib import Path
from typing import Final

from ..run import FAIL, HARNESS, KNOWN, NOT_RUN, PASS, STALE, UNSUPPORTED, Result
from ..session import Session
from . import figures

KINDS: Final = {
    FAIL: "failure",
    STALE: "failure",
    HARNESS: "error",
    NOT_RUN: "error",
    KNOWN: "skipped",
    UNSUPPORTED: "skipped",
}
_LINES: Final = 200


def write(session: Session, path: Path) -> None:
    """Write the file."""
    top = Tree.Element("testsuites", name="sabir-conformance")
    totals = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    names = dict.fromkeys([*figures.drivers(session), *(result.driver for result in session.results)])
    for name in names:
        results = [result for result in session.results if result.driver == name]
        if not results:
            continue
        counts = _counts(results)
        for key, number in counts.items():
            totals[key] += number
        suite = Tree.SubElement(top, "testsuite", {"name": name, **{key: str(number) for key, number in counts.items()}})
        suite.set("time", f"{sum(result.seconds for result in results):.3f}")
        suite.set("timestamp", session.began.strftime("%Y-%m-%dT%H:%M:%S"))
        suite.append(_properties(_about(session, name)))
        for result in results:
            suite.append(_case(session, result))
    for key, number in totals.items():
        top.set(key, str(number))
    top.set("time", f"{session.seconds:.3f}")
    Tree.indent(top)
    path.parent.mkdir(parents=True, exist_ok=True)
    Tree.ElementTree(top).write(path, encoding="utf-8", xml_declaration=True)


def _counts(results: list[Result]) -> dict[str, int]:
    kinds = [KINDS.get(result.verdict) for result in results]
    return {
        "tests": len(results),
        "failures": kinds.count("failure"),
        "errors": kinds.count("error"),
        "skipped": kinds.count("skipped"),
    }


def _about(session: Session, name: str) -> list[tuple[str, str]]:
    about = [("suite", figures.suite_version()), ("redis", session.redis), ("seed", str(session.seed))]
    for driver in name.split(figures.ARROW):
        hello = session.hellos.get(driver)
        if hello:
            about.append((f"port {driver}", f"{hello.get('name')} {hello.get('version')} ({hello.get('language')})"))
    return about


def _properties(pairs: list[tuple[str, str]]) -> Tree.Element:
    made = Tree.Element("properties")
    for name, value in pairs:
        Tree.SubElement(made, "property", name=name, value=figures.printable(value))
    return made


def _case(session: Session, result: Result) -> Tree.Element:
    case = Tree.Element(
        "testcase", name=result.case["id"], classname=f"{result.driver}.{result.case['role']}", time=f"{result.seconds:.3f}"
    )
    rules = [("requirement", rule) for rule in result.case["rules"]]
    case.append(_properties([*rules, ("title", result.case["title"]), ("verdict", result.verdict)]))
    if result.verdict == PASS:
        return case
    told = Tree.SubElement(
        case,
        KINDS[result.verdict],
        message=figures.printable(f"{result.verdict}: {result.reason}"),
        type=result.verdict,
    )
    if KINDS[result.verdict] != "skipped":
        lines = [figures.wire(line) for line in result.transcript[-_LINES:]]
        told.text = "\n".join(
            [figures.printable(result.reason), "", *lines, "", f"again: {figures.repeat_command(session, result)}"]
        )
        if result.dialogue:
            Tree.SubElement(case, "system-out").text = figures.printable("\n".join(result.dialogue))
        if result.stderr:
            Tree.SubElement(case, "system-err").text = figures.printable("\n".join(result.stderr))
    return case
