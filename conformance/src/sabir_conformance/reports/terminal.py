"""The live terminal: a progress bar, failures as they come, the grid, the counts. Plain lines elsewhere."""

from __future__ import annotations

import io
import re
from types import TracebackType
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..run import GREEN, PASS, Result
from ..session import Session
from . import figures

IN_FULL: Final = 20
"""Failures shown with their transcript; of those after them only a line each. The files have them all."""
LINES: Final = 15
_WIDE: Final = 220
_PIPED_WIDTH: Final = 160


class Live:
    """While the run goes on."""

    def __init__(self, console: Console, session: Session) -> None:
        if isinstance(console.file, io.TextIOWrapper):
            console.file.reconfigure(errors="backslashreplace")  # an arrow must not end a run in the C locale
        self._console, self._session = console, session
        self._failed = 0
        columns = (
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[failed]}"),
            TextColumn("{task.description}", style="dim"),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("starting", total=None, failed="")

    def __enter__(self) -> Live:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def take(self, result: Result) -> None:
        """A case has ended."""
        if result.verdict not in GREEN:
            self._failed += 1
            self._tell(result)
        failed = f"[bold red]{self._failed} failed[/]" if self._failed else "[green]0 failed[/]"
        planned = self._session.planned
        self._progress.update(self._task, total=planned, description=result.driver, advance=1, failed=failed)

    def _tell(self, result: Result) -> None:
        line = Text(f"{result.verdict} ", "bold red")
        line.append(result.case["id"], "bold")
        line.append(f" · {result.driver} · ").append(" ".join(result.case["rules"]), "cyan")
        self._print(line)
        self._print(Text(f"  {figures.printable(result.reason)}"))
        if self._failed > IN_FULL:
            return
        left = len(result.transcript) - LINES
        if left > 0:
            self._print(Text(f"    … {left} lines before these; the report has them all", "dim"))
        for seen in result.transcript[-LINES:]:
            text = figures.wire(seen)
            style = {"!": "yellow", "<": "dim"}.get(seen.kind, "")
            self._print(Text("    " + (text if len(text) <= _WIDE else text[: _WIDE - 1] + "…"), style))
        if not result.transcript:
            for said in _ends(result.dialogue):
                self._print(Text(f"    {figures.printable(said)[:_WIDE]}", "dim"))
        for said in result.stderr[-3:]:
            self._print(Text(f"    stderr: {figures.printable(said)[:_WIDE]}", "dim"))
        self._print(Text(f"  again: {figures.repeat_command(self._session, result)}", "dim"))
        if self._failed == IN_FULL:
            self._print(Text("Further failures are told in short.", "yellow"))

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True, highlight=False)


def _ends(dialogue: list[str], each: int = 4) -> list[str]:
    """The last lines of each that speaks: a pair's drivers put their names in front."""
    speakers: dict[str, list[str]] = {}
    for line in dialogue:
        speakers.setdefault(re.split("[<>]", line, maxsplit=1)[0], []).append(line)
    return [line for lines in speakers.values() for line in lines[-each:]]


def show(session: Session, console: Console, mutants: dict[str, Any] | None = None) -> None:
    """The end of the run."""
    width = console.width if console.is_terminal else max(console.width, _PIPED_WIDTH)

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style), soft_wrap=True, highlight=False)

    for title, table in (
        ("Cases passed, by area", _areas(session, console)),
        ("Every client (row) calls every server (column)", _grid(session, console)),
    ):
        if table is not None:
            say(title, "bold")
            console.print(table, width=width, highlight=False)
            say("")
    counts = figures.coverage(mutants)
    say("requirements: " + ", ".join(f"{number} {state}" for state, number in counts.items()))
    if stalls := [result.stalled for result in session.results if result.stalled]:
        say(
            f"{len(stalls)} cases were run again, as the machine had stopped the runner, for up to {max(stalls):.1f} s",
            "yellow",
        )
    say(f"{figures.speed(session)}; {session.redis}; --seed {session.seed}")
    if session.interrupted:
        say("interrupted", "bold red")
    if not any(result.verdict == PASS for result in session.results):
        say("nothing passed: that is a failure, whatever else was said", "bold red")
    say(figures.sums(session), "bold green" if session.green else "bold red")


def _table(console: Console) -> Table:
    return Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)


def _cell(passed: int, total: int, bad: bool) -> Text:
    if not total:
        return Text("–", "dim")
    return Text(f"{passed}/{total}", "bold red" if bad else "green" if passed == total else "yellow")


def _areas(session: Session, console: Console) -> Table | None:
    found = figures.areas(session)
    if not found:
        return None
    table = _table(console)
    table.add_column("area", no_wrap=True)
    names = [name for name in figures.drivers(session) if any(name in row for row in found.values())]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for place, row in found.items():
        rest = [row.get(name) for name in names]
        cells = [_cell(c[PASS], c.total(), not GREEN.issuperset(c)) if c else Text("–", "dim") for c in rest]
        table.add_row(place, *cells)
    return table


def _grid(session: Session, console: Console) -> Table | None:
    cells = figures.grid(session)
    if not cells:
        return None
    table = _table(console)
    table.add_column("client", no_wrap=True)
    servers = [name for name in figures.drivers(session) if any(server == name for _, server in cells)]
    for name in servers:
        table.add_column(name, justify="right", no_wrap=True)
    for client in figures.drivers(session):
        if any(name == client for name, _ in cells):
            row = [cells.get((client, server), [0, 0]) for server in servers]
            table.add_row(client, *(_cell(passed, total, passed < total) for passed, total in row))
    return table
