"""The Markdown that is added to $GITHUB_STEP_SUMMARY."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ..session import Session
from . import figures, grid

_FAILURES: Final = 50
_REASON: Final = 300


def append(session: Session, path: Path) -> None:
    """Add the run to the file: counts, grid, failures."""
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(markdown(session))


def markdown(session: Session) -> str:
    """The run as Markdown."""
    failed = figures.failures(session)
    lines = [
        f"## Sabir conformance: {'passed' if session.green else 'failed'}",
        "",
        f"**{figures.sums(session)}**, {session.seconds:.1f} s, {session.redis}, `--seed {session.seed}`",
        "",
        grid.markdown(figures.summary(session)),
    ]
    if failed:
        lines += ["| verdict | case | driver | rules | reason |", "| --- | --- | --- | --- | --- |"]
        for result in failed[:_FAILURES]:
            rules = " ".join(result.case["rules"])
            cells = (result.verdict, f"`{result.case['id']}`", result.driver, rules, _cell(result.reason))
            lines.append("| " + " | ".join(cells) + " |")
        if len(failed) > _FAILURES:
            lines.append(f"\nand {len(failed) - _FAILURES} more.")
        lines += ["", "One of them again:", "", "```", figures.repeat_command(session, failed[0]), "```"]
    return "\n".join(lines) + "\n\n"


def _cell(text: str) -> str:
    """Text of a port, in a table: no mark-up, no row of its own."""
    short = figures.printable(text if len(text) <= _REASON else text[: _REASON - 1] + "…")
    for mark in "&<>":
        short = short.replace(mark, {"&": "&amp;", "<": "&lt;", ">": "&gt;"}[mark])
    for mark in "\\`*_[]|":
        short = short.replace(mark, f"\\{mark}")
    return " ".join(short.split())
