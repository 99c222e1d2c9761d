"""The report of a run: JSON, a Markdown table, and a plot, where matplotlib is installed."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from . import Report
from .contestant import contestants
from .measure import Measured, Outcome

BEGIN: Final = "<!-- bench: written by sabir-conformance bench --readme -->"
END: Final = "<!-- /bench -->"
_COLOURS: Final = {"floor": "#9aa5b1", "sabir": "#0b7285", "peer": "#e8a33d"}


class Live:
    """While it goes on: what is being measured, and for how long it has been going on. Nothing where nobody looks."""

    def __init__(self, console: Console) -> None:
        columns = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("starting", total=None)

    def __enter__(self) -> Live:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def tell(self, what: str) -> None:
        self._progress.update(self._task, description=what)


def write(report: Report, folder: Path, name: str) -> list[Path]:
    """Write NAME.json, NAME.md and NAME.svg into a folder. Returns what was written: no plot without matplotlib."""
    folder.mkdir(parents=True, exist_ok=True)
    data, text, plot = (folder / f"{name}.{kind}" for kind in ("json", "md", "svg"))
    data.write_text(json.dumps(report.as_json(), indent=1) + "\n", "utf-8")
    text.write_text(markdown(report), "utf-8")
    if importlib.util.find_spec("matplotlib") is None or not report.measured:
        return [data, text]
    draw(report, plot)
    return [data, text, plot]


def markdown(report: Report) -> str:
    """The whole report, as Markdown."""
    head = report.header
    of = ", ".join(f"{name} {value}" for name, value in list(head.items())[7:] if value)
    lines = [
        f"# Benchmark, {head['date']}, {head['server']}",
        "",
        f"{head['machine']}; {head['rounds']} rounds of {head['seconds']:g} s of each in turns, medians; load before it"
        f" {head['load']}; commit {head['commit']}; {of}.",
        "",
        *goals(report.outcomes),
    ]
    for one in report.measured.values():
        lines += ["", f"## {_capital(one.scenario.title)}", "", *scenario(one)]
    if report.absent:
        lines += ["", "## Not run", "", *(f"- {name}: {why}" for name, why in report.absent.items())]
    return "\n".join(lines) + "\n"


def _capital(title: str) -> str:
    return title[0].upper() + title[1:]


def goals(outcomes: list[Outcome]) -> list[str]:
    """The goals, as a Markdown table."""
    lines = ["| goal | bound | measured | |", "| --- | --- | --- | --- |"]
    for one in outcomes:
        bound = f"{'≥' if one.at_least else '≤'} {one.bound:g} {one.unit}"
        value = "–" if one.value is None else f"{one.value:.{0 if one.unit == 'ms' else 2}f} {one.unit}"
        lines.append(f"| {one.what} | {bound} | {value} | {one.state}{f': {one.why}' if one.why else ''} |")
    return lines


def scenario(one: Measured) -> list[str]:
    """A scenario's figures, as a Markdown table: the floors first, then by the time of a call."""
    lines = [
        "| | p50, µs | p99, µs | calls/s | CPU of Redis, client, worker for a call, µs |",
        "| --- | --: | --: | --: | --: |",
    ]
    known = contestants()
    for name in sorted(one.rounds, key=lambda n: one.median(n, "seconds_per_call")):
        contestant = known[name.partition(",")[0]]
        of = {
            f: one.median(name, f) for f in ("p50_us", "p99_us", "seconds_per_call", "redis_us", "client_us", "worker_us")
        }
        title = contestant.title + name[len(contestant.name) :]
        title = f"**{title}**" if contestant.kind == "sabir" else title
        cpu = f"{of['redis_us']:.1f}, {of['client_us']:.0f}, {of['worker_us']:.0f}"
        rate = 1 / of["seconds_per_call"]
        lines.append(f"| {title} | {of['p50_us']:,.0f} | {of['p99_us']:,.0f} | {rate:,.0f} | {cpu} |")
    lines += [f"| {name} | | | | {why} |" for name, why in one.absent.items()]
    return lines


def draw(report: Report, path: Path) -> None:
    """The time of a call one after another, and the calls of a second with 64 in flight, as bars."""
    import matplotlib as mpl  # noqa: PLC0415 - an extra, and slow to import

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    known = contestants()
    shown: list[tuple[Measured, str, str, Any]] = [
        (report.measured[id], title, unit, value)
        for id, title, unit, value in (
            ("one", "One call after another, 100 bytes", "µs (p50)", lambda m, n: m.median(n, "p50_us")),
            ("64", "64 calls in flight, 100 bytes", "calls/s", lambda m, n: 1 / m.median(n, "seconds_per_call")),
        )
        if id in report.measured
    ]
    if not shown:
        return
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "sabir", "font.size": 9})
    figure, axes = plt.subplots(1, len(shown), figsize=(6 * len(shown), 4.4), squeeze=False)
    for axis, (one, title, unit, value) in zip(axes[0], shown, strict=True):
        names = sorted(one.rounds, key=lambda n: value(one, n), reverse=unit != "calls/s")
        bars = axis.barh(
            [known[n].title for n in names], [value(one, n) for n in names], color=[_COLOURS[known[n].kind] for n in names]
        )
        axis.bar_label(bars, [f"{value(one, n):,.0f}" for n in names], padding=3)
        axis.set_title(title, loc="left", fontweight="bold")
        axis.set_xlabel(unit)
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.text(
        0.01, 0.005, f"{report.header['server']}; {report.header['machine']}; {report.header['date']}", color="#666666"
    )
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def show(report: Report, console: Console) -> None:
    """The goals, and the main figures, in the terminal."""
    table = Table(box=None, pad_edge=False)
    for name in ("goal", "bound", "measured", ""):
        table.add_column(name, overflow="fold")
    for line in goals(report.outcomes)[2:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        style = {"met": "green", "missed": "bold red"}.get(cells[-1])
        table.add_row(*cells, style=style)
    console.print(table)
    for name, why in report.absent.items():
        console.print(f"not run: {name}: {why}", markup=False, highlight=False, style="yellow", soft_wrap=True)


def readme(report: Report, path: Path, plot: str) -> None:
    """Write the table of one call and of 64, and the plot, into a Markdown file between its two markers."""
    text = path.read_text("utf-8")
    head = report.header
    lines = [f"![What a call costs]({plot})", ""]
    for id in ("one", "64"):
        if id in report.measured:
            lines += [
                f"{_capital(report.measured[id].scenario.title)}, {head['server']}:",
                "",
                *scenario(report.measured[id]),
                "",
            ]
    between = "\n".join(
        [BEGIN, *lines, f"{head['machine']}; {head['date']}; medians of {head['rounds']} rounds in turns.", END]
    )
    changed, found = re.subn(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: between, text, flags=re.DOTALL)
    if not found:
        raise ValueError(f"{path}: expected the markers {BEGIN} and {END}")
    path.write_text(changed, "utf-8")
