"""The grid as Markdown: for a README, from the last run's summary.json, and for CI's summary.

    sabir-conformance grid summary.json README.md [--check]

rewrites what stands between ``<!-- conformance-grid -->`` and ``<!-- /conformance-grid -->``; with --check it only tells,
by its exit status, whether that is stale (1). A run of some of the cases, or one that lost some, is refused (2).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, Final

_BLOCK: Final = re.compile(r"(<!-- conformance-grid -->\n).*?(<!-- /?conformance-grid -->)", re.DOTALL)


def markdown(summary: dict[str, Any]) -> str:
    """The table clients × servers, and a line with each driver's counts. No dates, no names of machines."""
    cells = {(client, server): (passed, total) for client, server, passed, total in summary["grid"]}
    clients = list(dict.fromkeys(client for client, _ in cells))
    servers = list(dict.fromkeys(server for _, server in cells))
    lines = []
    if cells:
        lines += ["| client ↓  server → | " + " | ".join(servers) + " |", "| --- |" + " ---: |" * len(servers)]
        for client in clients:
            row = [cells.get((client, server)) for server in servers]
            lines.append(f"| {client} | " + " | ".join(f"{c[0]}/{c[1]}" if c else "–" for c in row) + " |")
        lines.append("")
    parts = []
    for name, driver in summary["drivers"].items():
        others = ", ".join(f"{number} {verdict}" for verdict, number in driver["verdicts"].items() if verdict != "pass")
        parts.append(f"{name} {driver['passed']}/{driver['total']}" + (f" ({others})" if others else ""))
    lines.append(
        f"Cases passed by each port alone, profile `{summary['profile']}`: {' · '.join(parts)}. On {summary['redis']}."
    )
    return "\n".join(lines) + "\n"


def rewritten(text: str, summary: dict[str, Any]) -> str:
    """A Markdown file with its block made anew. Raises ValueError when there isn't exactly one."""
    made, times = _BLOCK.subn(lambda found: found[1] + markdown(summary) + found[2], text)
    if times != 1:
        raise ValueError(
            f"expected one block between <!-- conformance-grid --> and <!-- /conformance-grid -->, got {times}"
        )
    return made


def rewrite(summary_path: Path, markdown_path: Path, check: bool) -> int:
    """Rewrite the block of a Markdown file. ``check``: change nothing. Returns the exit status."""
    try:
        summary = json.loads(summary_path.read_text(encoding="utf-8"))
        if summary["partial"] or sum(summary["verdicts"].values()) != summary["planned"]:
            raise ValueError(f"{summary_path}: from a run of some cases only; the grid wants a whole one")
        old = markdown_path.read_text(encoding="utf-8")
        new = rewritten(old, summary)
    except (OSError, ValueError, KeyError) as error:
        print(f"grid: {error}", file=sys.stderr)
        return 2
    if old == new:
        return 0
    if check:
        print(f"grid: {markdown_path} is stale; without --check this command rewrites it", file=sys.stderr)
        return 1
    markdown_path.write_text(new, encoding="utf-8")
    print(f"grid: {markdown_path} rewritten")
    return 0
