"""Search the model of profile `reliable`: the protocol as it is, and with each protective rule taken away.

Examples:
  python protocol/model                       everything, as a table
  python protocol/model --list                the names of the runs, and their bounds
  python protocol/model --run blpop --run call
  python protocol/model --trace blpop         the shortest way to what goes wrong
  python protocol/model --table               what stands in protocol/rationale.md

Exit status: 0 every run found what it was to find; 1 one did not; 2 no such run.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

from check import ABLATIONS, ASSUMPTIONS, RUNS, WHOLE, Found, Run, bounds, counted, tables, verdict

Timed = tuple[Found, float]


def timed(run: Run) -> Timed:
    """What a run finds, and its seconds."""
    begin = time.perf_counter()
    return run.go(), time.perf_counter() - begin


def search_all(runs: list[Run], jobs: int, show: bool) -> dict[str, Timed]:
    """Run them, `jobs` at a time; `show` prints a line for each, in their order, as soon as it can be."""
    done: dict[str, Timed] = {}
    shown, begin, live = 0, time.perf_counter(), sys.stderr.isatty()
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        waiting: dict[Future[Timed], Run] = {pool.submit(timed, run): run for run in runs}
        while waiting:
            for future in wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED).done:
                done[waiting.pop(future).name] = future.result()
            if live:
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            while show and shown < len(runs) and runs[shown].name in done:
                print(line(runs[shown], *done[runs[shown].name]), flush=True)
                shown += 1
            if live and waiting:
                running = next(iter(waiting.values())).name
                text = f"{len(done)} of {len(runs)} runs, {time.perf_counter() - begin:.0f} s; {running}"
                print(text, end="", file=sys.stderr, flush=True)
    return done


def line(run: Run, found: Found, seconds: float) -> str:
    """A row of the table."""
    right, text = verdict(run, found)
    return f"{run.name:27} {bounds(run.scenario):42} {found.states:>8,} {seconds:6.1f}  {'' if right else 'WRONG: '}{text}"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        "python protocol/model", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="list the runs")
    what.add_argument("--run", action="append", metavar="NAME", help="search this one (can be given again)")
    what.add_argument("--trace", metavar="NAME", help="print what a run finds, step by step")
    what.add_argument("--table", action="store_true", help="search everything, print the tables of the rationale")
    parser.add_argument("--jobs", type=int, metavar="N", default=os.cpu_count() or 1, help="processes at once")
    options = parser.parse_args()
    known = {run.name: run for run in RUNS}
    names = options.run or ([options.trace] if options.trace else list(known))
    for name in names:
        if name not in known:
            parser.error(f"no run named {name!r}; --list names them")
    if options.list:
        for head, runs in (("The protocol", WHOLE), ("Without a rule", ABLATIONS), ("Without an assumption", ASSUMPTIONS)):
            print(head, *(f"  {run.name:27} {run.without or bounds(run.scenario)}" for run in runs), sep="\n")
        return 0
    if options.trace:
        run = known[options.trace]
        found, _ = timed(run)
        print(f"{run.without or run.name} ({bounds(run.scenario)})")
        print(*(f"{n:4}. {step}" for n, step in enumerate(found.trace, 1)), sep="\n")
        right, text = verdict(run, found)
        print(text)
        return 0 if right else 1
    if not options.table:
        print(f"{'run':27} {'bounds':42} {'states':>8} {'s':>6}  verdict")
    begin = time.perf_counter()
    done = search_all([known[name] for name in names], options.jobs, show=not options.table)
    wrong = [name for name in names if not verdict(known[name], done[name][0])[0]]
    if options.table:
        print(tables({name: found for name, (found, _) in done.items()}))
        for name in wrong:
            print(line(known[name], *done[name]), file=sys.stderr)
    else:
        states = sum(found.states for found, _ in done.values())
        seconds = time.perf_counter() - begin
        print(f"{counted(len(names), 'run')}, {states:,} states, {seconds:.0f} s: {len(wrong) or 'none'} not as expected")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
