"""What a run tells: live on the terminal, and afterwards as JUnit XML, JSON lines, one HTML page, a summary for CI."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rich.console import Console

from ..driver import DriverError
from ..run import as_json
from ..session import Session
from . import ci, figures, html
from . import junit as xml
from .terminal import Live, show

__all__ = ["Live", "read_mutants", "write"]


def write(
    session: Session,
    console: Console,
    *,
    junit: Path | None,
    jsonl: Path | None,
    folder: Path | None,
    mutants: dict[str, Any] | None = None,
) -> None:
    """Write every report that was asked for; the summary of the run always goes to the console, as its last lines."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        _put(folder / "summary.json", json.dumps(figures.summary(session, mutants), indent=2, ensure_ascii=False) + "\n")
        _put(folder / "index.html", html.page(session, mutants))
    for path in (jsonl, folder / "results.jsonl" if folder else None):
        if path is not None:
            _put(path, "".join(as_json(result) + "\n" for result in session.results))
    if junit is not None:
        xml.write(session, junit)
    if os.environ.get("GITHUB_STEP_SUMMARY"):
        ci.append(session, Path(os.environ["GITHUB_STEP_SUMMARY"]))
    show(session, console, mutants)
    if folder is not None:
        console.print(f"report: {folder / 'index.html'}", markup=False, highlight=False, soft_wrap=True)


def read_mutants(path: Path) -> dict[str, Any]:
    """What ``sabir-conformance mutants --out`` wrote. Raises OSError, or DriverError for another file."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = {"kills", "mutants"} - found.keys()
    except (ValueError, AttributeError):
        missing = {"JSON"}
    if missing:
        raise DriverError(f"{path}: expected what sabir-conformance mutants --out writes")
    return found


def _put(path: Path, text: str) -> None:
    """Write a file. A lone surrogate (a port may have said one) becomes its escape, which in JSON means the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
