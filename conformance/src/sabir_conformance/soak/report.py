"""What a soak tells: a line while it goes on, the histories of what is wrong, tables, and JSON."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from . import Soak
from .journal import BREAKS, CUT, FLUSH, KILL, OUTAGE, PAUSE, STOP
from .ledger import CALL, FINISHED, INVOKED, NOTIFY, RESULT, SENT, Entry

IN_FULL: Final = 5
"""Requests that are not accounted for, shown with their history; of those after them only a line each, up to IN_A_LINE."""
IN_A_LINE: Final = 30
_NOBODY: Final = "nobody"
_MOST_EVENTS: Final = 60


class Live:
    """The line, on a terminal; elsewhere nothing."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.fields[phase]}"), BarColumn(bar_width=24), TextColumn("{task.description}"))
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("", total=None, phase="starting")

    def __enter__(self) -> Live:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def tell(self, soak: Soak) -> None:
        """Twice a second."""
        passed = time.monotonic() - soak.loaded[0] if soak.loaded[0] else 0.0
        done = soak.journal.counts()
        requests = len(soak.ledger.entries)
        text = (
            f"{passed:.0f} of {soak.options.seconds:g} s · {requests:,} requests · {requests / max(passed, 1):,.0f}/s · "
            f"{done[KILL]} kills · {done[PAUSE]} pauses · {done[OUTAGE]} restarts of Redis · seed {soak.seed}"
        )
        total, completed = soak.options.seconds, min(passed, soak.options.seconds)
        self._progress.update(self._task, total=total, completed=completed, description=text, phase=soak.phase)


# ---------------------------------------------------------------------------------------------------- figures


def served_by(entry: Entry) -> str:
    """The language of the worker that had it last, as far as a handler was started."""
    return entry.runs[-1][2].manifest.name if entry.runs else _NOBODY


def until_lost(soak: Soak) -> list[tuple[float, bool]]:
    """Of each call whose handler a kill -9 ended: seconds until its WorkerLost, and whether Redis was left in peace meanwhile."""
    kills = {event.process: event.at for event in soak.journal.events if event.kind == KILL}
    found = []
    for entry in soak.ledger.entries:
        if entry.end == "WorkerLost" and entry.job.kind == CALL:
            at = max((kills[process] for _, _, process in entry.runs if process in kills), default=math.inf)
            if at <= entry.ended:
                found.append((entry.ended - at, not soak.journal.during(at - 10, entry.ended, *BREAKS)))
    return found


def calls_of(soak: Soak) -> int:
    return sum(entry.job.kind == CALL for entry in soak.ledger.entries)


def summary(soak: Soak) -> dict[str, Any]:
    """All figures, and the history of every request that is not accounted for."""
    entries = soak.ledger.entries
    seconds = soak.loaded[1] - soak.loaded[0]
    pairs: dict[str, Counter[str]] = {}
    for entry in entries:
        if entry.job.kind == CALL:
            pairs.setdefault(f"{entry.client.manifest.name} > {served_by(entry)}", Counter())[entry.end or "no answer"] += 1
    by_language: dict[str, Counter[str]] = {}
    for event in soak.journal.events:
        if event.process is not None:
            by_language.setdefault(event.process.manifest.name, Counter())[event.kind] += 1
    ends = Counter(entry.end or "no answer" for entry in entries if entry.job.kind == NOTIFY)
    lost = until_lost(soak)
    late = [entry.ended - entry.pushed - entry.job.timeout_ms / 1000 for entry in entries if entry.ended]
    return {
        "green": soak.green,
        "seed": soak.seed,
        "seconds": round(seconds, 1),
        "wall_seconds": round(soak.wall, 1),
        "requests": len(entries),
        "calls": calls_of(soak),
        "calls_per_second": round(calls_of(soak) / max(seconds, 1), 1),
        "pairs": {pair: dict(ends) for pair, ends in sorted(pairs.items())},
        "notifications": dict(ends),
        "executions": sum(entry.times(INVOKED) for entry in entries),
        "executions_finished": sum(entry.times(FINISHED) for entry in entries),
        "executed_again": sum(entry.times(INVOKED) > 1 for entry in entries),
        "dead_letters": sum(len(entry.dead) for entry in entries),
        "chaos": dict(soak.journal.counts()),
        "chaos_by_language": {name: dict(done) for name, done in sorted(by_language.items())},
        "longest_kill_to_worker_lost_s": _longest(seconds for seconds, _ in lost),
        "longest_kill_to_worker_lost_in_peace_s": _longest(seconds for seconds, in_peace in lost if in_peace),
        "worker_lost_after_kill": len(lost),
        "latest_behind_time_out_s": round(max([0.0, *late]), 2),
        "memory": [
            {
                "process": f"{growth.process.label} {growth.process.role}",
                "before": growth.before,
                "after": growth.after,
                "samples_mib": [round(size / 2**20, 1) for size in growth.samples[:: max(1, len(growth.samples) // 60)]],
            }
            for growth in soak.grown
        ],
        "planted": None if soak.planted is None else soak.planted.number,
        "troubles": soak.troubles,
        "faults": [
            {"request": entry.number, "fault": fault, "history": history(soak, entry)} for entry, fault in soak.faults
        ],
    }


def _longest(seconds: Iterable[float]) -> float | None:
    return round(longest, 2) if (longest := max(seconds, default=None)) is not None else None


def history(soak: Soak, entry: Entry) -> list[str]:
    """All that is known of a request, and what was done to workers and to Redis meanwhile, in the order of time."""
    begin = soak.journal.begin
    many = f", with {entry.many - 1} others in one push" if entry.many > 1 else ""
    lines = [(entry.pushed, f"sent by {entry.client.label} to {entry.service}: {entry.job}{many}")]
    lines += [(at, f"{what} in {process.label} (pid {process.pid})") for at, what, process in entry.runs]
    if entry.end:
        lines.append((entry.ended, f"ended with {entry.end}{': ' + entry.detail if entry.detail else ''}"))
    events = soak.journal.during(entry.pushed - 15, max(entry.last, entry.pushed + 15))
    lines += [
        (event.at, f"    {event.text}" + ("" if event.until == event.at else f" (over at {_at(event.until - begin)})"))
        for event in events[-_MOST_EVENTS:]
    ]
    told = [f"{_at(at - begin)}  {text}" for at, text in sorted(lines, key=lambda line: line[0])]
    return told + [f"dead letter by {letter['worker']}: {json.dumps(letter['error'])}" for letter in entry.dead]


def _at(seconds: float) -> str:
    return "the end" if math.isinf(seconds) else f"{seconds:8.3f} s"


# ---------------------------------------------------------------------------------------------------- text


def show(soak: Soak, console: Console) -> None:
    """Tables, then what is wrong, then one line."""
    figures = summary(soak)
    console.print(_pairs(figures), _chaos(figures), sep="\n")
    ends = figures["notifications"]
    others = ", ".join(f"{count:,} {end}" for end, count in sorted(ends.items()) if end != SENT)
    redis = (figures["chaos"].get(kind, 0) for kind in (OUTAGE, CUT, FLUSH))
    for line in (
        "Redis: killed {} times; connections killed {} times; scripts flushed {} times".format(*redis),
        f"notifications: {ends.get(SENT, 0):,} sent" + (f", {others}" if others else ""),
        f"executions: {figures['executions']:,}; {figures['executed_again']:,} requests more than once",
        f"dead letters: {figures['dead_letters']:,}",
        _lost(figures),
        f"longest behind a time-out: {figures['latest_behind_time_out_s']:g} s",
        *(
            f"memory of {of['process']}: {of['before'] / 2**20:.0f} MiB in the second quarter, {of['after'] / 2**20:.0f} MiB in the last"
            for of in figures["memory"]
        ),
    ):
        _print(console, line)
    _show_faults(soak, console)
    word, style = ("all accounted for", "bold green") if soak.green else ("NOT all accounted for", "bold red")
    console.print(
        f"{word}: {figures['calls']:,} calls in {figures['seconds']:g} s ({figures['calls_per_second']:,.0f}/s), "
        f"{figures['chaos'].get(KILL, 0)} kills, {figures['wall_seconds']:g} s in all; seed {soak.seed}",
        style=style,
        highlight=False,
        soft_wrap=True,
    )


def _lost(figures: dict[str, Any]) -> str:
    longest, in_peace = (figures[f"longest_kill_to_worker_lost_{name}s"] for name in ("", "in_peace_"))
    if longest is None:
        return "kill -9 to WorkerLost: none was seen"
    peace = "" if in_peace is None else f"; {in_peace:g} s where Redis was left in peace"
    return f"kill -9 to WorkerLost: {longest:g} s at most, of {figures['worker_lost_after_kill']} calls{peace}"


def _show_faults(soak: Soak, console: Console) -> None:
    if soak.planted is not None:
        _print(console, f"planted: the soak itself took request {soak.planted.number} out of the queue")
    for trouble in soak.troubles[:IN_A_LINE]:
        _print(console, f"WRONG: {trouble}")
    for index, (entry, fault) in enumerate(soak.faults[:IN_A_LINE]):
        _print(console, f"WRONG: request {entry.number} ({entry.job.kind}): {fault}")
        for line in history(soak, entry) if index < IN_FULL else []:
            _print(console, f"    {line}")
    left = max(0, len(soak.troubles) - IN_A_LINE) + max(0, len(soak.faults) - IN_A_LINE)
    if left:
        _print(console, f"… {left} more; --out has them all")


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _pairs(figures: dict[str, Any]) -> Table:
    ends = sorted({end for counts in figures["pairs"].values() for end in counts} - {RESULT})
    table = Table(box=box.SIMPLE, title="Calls, by the languages of client and worker", title_justify="left")
    for name in ("pair", "calls", RESULT, *ends):
        table.add_column(name, justify="left" if name == "pair" else "right", overflow="fold")
    for pair, counts in figures["pairs"].items():
        table.add_row(
            pair,
            *(
                f"{count:,}" if count else ""
                for count in (sum(counts.values()), *(counts.get(e, 0) for e in (RESULT, *ends)))
            ),
        )
    return table


def _chaos(figures: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE, title="Chaos", title_justify="left")
    for name in ("", "kill -9", "SIGSTOP", "stopped"):
        table.add_column(name, justify="right" if name else "left")
    for language, done in figures["chaos_by_language"].items():
        table.add_row(language, *(str(done.get(kind, 0)) for kind in (KILL, PAUSE, STOP)))
    return table


def write(soak: Soak, folder: Path) -> None:
    """soak.json: all figures and histories."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "soak.json").write_text(json.dumps(summary(soak), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
