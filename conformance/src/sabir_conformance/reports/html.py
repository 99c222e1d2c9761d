"""One HTML page that holds everything and needs nothing: no network, no other file. Its parts are in page/."""

from __future__ import annotations

import base64
import hashlib
import json
import string
from pathlib import Path
from typing import Any, Final

from ..proxy import Line
from ..run import GREEN, VERDICTS, Result
from ..session import Session, requirements
from . import figures

_PAGE: Final = Path(__file__).parent / "page"
BUDGET: Final = 6_000_000
"""Characters of data. To stay below, transcripts are cut in their middle: those of cases that passed first."""
# For each attempt: lines and characters a line, of what is green, and of what is not.
_LEVELS: Final = (
    ((80, 240), (1000, 4000)),
    ((40, 160), (1000, 4000)),
    ((20, 120), (1000, 4000)),
    ((20, 120), (120, 600)),
    ((12, 120), (60, 300)),
    ((0, 0), (60, 300)),
    ((0, 0), (10, 200)),
)


class _Template(string.Template):
    """string.Template, but with a delimiter that neither CSS nor JavaScript uses."""

    delimiter = "%%"


def page(session: Session, mutants: dict[str, Any] | None = None) -> str:
    """The page, as text."""
    for green, other in _LEVELS:
        data = _json(_data(session, mutants, green, other))
        if len(data) <= BUDGET:
            break
    style, script = ((_PAGE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return _Template((_PAGE / "page.html").read_text(encoding="utf-8")).substitute(
        style=style, script=script, style_hash=_hash(style), script_hash=_hash(script), data=data
    )


def _hash(text: str) -> str:
    """For the Content-Security-Policy: nothing but this script and this style sheet is obeyed."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


class _Texts:
    """Texts that occur many times are kept once."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._places: dict[str, int] = {}

    def put(self, text: str) -> int:
        if text not in self._places:
            self._places[text] = len(self.all)
            self.all.append(text)
        return self._places[text]


def _data(
    session: Session, mutants: dict[str, Any] | None, green: tuple[int, int], other: tuple[int, int]
) -> dict[str, Any]:
    texts = _Texts()
    cases: dict[str, dict[str, Any]] = {}
    results = []
    for result in session.results:
        case = result.case
        if case["id"] not in cases:
            cases[case["id"]] = {
                "id": case["id"],
                "area": figures.area(case["id"]),
                "title": case["title"],
                "rules": case["rules"],
                "role": case["role"],
                "profile": case["profile"],
                "does": _does(case),
            }
        results.append(_result(session, result, texts, *(green if result.verdict in GREEN else other)))
    return {
        "summary": figures.summary(session, mutants),
        "sums": figures.sums(session),
        "arrow": figures.ARROW,
        "verdicts": VERDICTS,
        "green": sorted(GREEN),
        "cases": sorted(cases.values(), key=lambda case: case["id"]),
        "results": results,
        "requirements": [
            {"id": rule.id, "text": rule.text, "state": rule.state, "cases": rule.cases, "note": rule.note}
            for rule in requirements(figures.kills(mutants))
        ],
        "mutants": _mutants(mutants),
        "texts": texts.all,
    }


def _mutants(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """The kill matrix, without what only the file needs: thousands of reasons at length."""
    if found is None:
        return None
    rows = []
    for mutant in found["mutants"]:
        row = {name: mutant[name] for name in ("mutant", "rule", "killed_by", "about", "state", "reason", "ran")}
        failed = {case: figures.printable(_cut(why, 120)) for case, why in list(mutant["failed"].items())[:40]}
        rows.append({**row, "failed": failed, "count": len(mutant["failed"])})
    return {"mutants": rows, "kill_nothing": found.get("kill_nothing", [])}


def _does(case: dict[str, Any]) -> list[str]:
    """What a case does, a line for each step."""
    steps = case.get("steps") or [{name: case[name]} for name in ("ask", "expect") if name in case]
    lines = []
    for step in steps:
        for name, spec in step.items():
            text = json.dumps(spec, ensure_ascii=False) if spec not in ({}, None) else ""
            lines.append(_cut(f"{name} {text}".rstrip(), 600))
    return lines


def _result(session: Session, result: Result, texts: _Texts, lines: int, width: int) -> dict[str, Any]:
    transcript = _middle_out(result.transcript, lines)
    dialogue = _middle_out([figures.printable(line) for line in result.dialogue], lines)
    return {
        "case": result.case["id"],
        "driver": result.driver,
        "verdict": result.verdict,
        "reason": figures.printable(_cut(result.reason, 4000)),
        "step": result.step,
        "s": round(result.seconds, 3),
        "wire": [
            [round(line.at * 1000, 1), line.who, line.kind, texts.put(figures.printable(_cut(line.text, width)))]
            if isinstance(line, Line)
            else line
            for line in transcript
        ],
        "talk": [texts.put(_cut(line, width)) if isinstance(line, str) else -line for line in dialogue],
        "stderr": [figures.printable(_cut(line, 1000)) for line in result.stderr],
        "again": figures.repeat_command(session, result),
    }


def _middle_out(lines: list[Any], limit: int) -> list[Any]:
    """The first and the last lines; a number between them says how many were left out."""
    if len(lines) <= limit:
        return lines
    head = limit // 3
    tail = limit - head
    return [*lines[:head], len(lines) - limit, *(lines[-tail:] if tail else [])]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[:width]}… ({len(text)} characters)"
