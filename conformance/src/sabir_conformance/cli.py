"""The command: sabir-conformance."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click  # options, help and exit codes
from rich.console import Console

from . import bench, cross, reports, session, soak
from .bench import BenchError
from .bench import report as bench_report
from .driver import DriverError, Manifest
from .mutants import run as mutants_run
from .reports import grid
from .server import ServerError, provide
from .session import Options, Session
from .soak import report as soak_report
from .suite import SuiteError, all_cases

EXIT = """\b
Exit status: 0 all is well; 1 something failed; 2 it could not be run (no driver, no Redis, wrong options); 130 interrupted."""

EXAMPLES = """\b
Examples:
  sabir-conformance run --driver driver.json
  sabir-conformance run --driver driver.json -k server/stop --fail-fast
  sabir-conformance run --driver a/driver.json --driver b/driver.json --redis container:redis:8 --junit out.xml --report out/
  sabir-conformance list -k SABIR-REPLY-3"""

BENCH_EXAMPLES = """\b
Examples:
  sabir-conformance bench --short
  sabir-conformance bench --only one --who floor-python --who sabir-python
  sabir-conformance bench --redis redis-server --out results --name redis-7.0"""


@click.group(help=f"Tests ports of the Sabir protocol, in any language, against a real Redis.\n\n{EXAMPLES}\n\n{EXIT}")
@click.version_option(package_name="sabir-conformance")
def main() -> None:
    pass


@contextlib.contextmanager
def _ending(console: Console) -> Iterator[None]:
    """The exit status of what was interrupted, or could not be run, and why."""
    try:
        yield
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
    except (BenchError, DriverError, ServerError, SuiteError, OSError) as error:
        console.print(f"sabir-conformance: {error}", style="red", markup=False, highlight=False)
        sys.exit(2)


@main.command(epilog=EXIT)
@click.option(
    "--driver",
    "drivers",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="A driver.json; may be repeated.",
)
@click.option("--profile", type=click.Choice(["core", "reliable", "managed"]), default="core", show_default=True)
@click.option(
    "--redis", "where", default="embedded", show_default=True, help="embedded, container[:IMAGE], or a redis:// URL."
)
@click.option("-k", "keyword", default="", help="Only cases whose id, title or rule holds this, or fits it as a pattern.")
@click.option(
    "--role", "roles", multiple=True, type=click.Choice(["server", "client", "cross"]), help="Only these. Default: all."
)
@click.option("--smoke", is_flag=True, help="A few seconds: the cases that everything else stands on.")
@click.option("--repeat", default=1, show_default=True, type=click.IntRange(1, 1000), help="Each case so often.")
@click.option("--seed", type=int, help="The order of the cases; a run prints its own.")
@click.option("--at-once", default=12, show_default=True, type=click.IntRange(1, 64), help="Cases side by side.")
@click.option("--fail-fast", is_flag=True, help="After the first failure, the rest is not-run.")
@click.option(
    "--attach", is_flag=True, help="Print the drivers' process ids and wait for Enter, so that a debugger can be attached."
)
@click.option("--list", "only_list", is_flag=True, help="Print the cases that would be run, and run none.")
@click.option("--known", type=click.Path(exists=True, path_type=Path), help="A file of known failures.")
@click.option("--mutants", type=click.Path(exists=True, path_type=Path), help="What `mutants --out` wrote, for the report.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write JUnit XML here.")
@click.option("--jsonl", type=click.Path(path_type=Path), help="Write a line of JSON for each result here.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write index.html, results.jsonl and summary.json into this folder.",
)
def run(
    drivers: tuple[Path, ...],
    profile: str,
    where: str,
    keyword: str,
    roles: tuple[str, ...],
    smoke: bool,
    repeat: int,
    seed: int | None,
    at_once: int,
    fail_fast: bool,
    attach: bool,
    only_list: bool,
    known: Path | None,
    mutants: Path | None,
    junit: Path | None,
    jsonl: Path | None,
    report: Path | None,
) -> None:
    """Run the cases against one or more drivers, and every client against every server."""
    console = Console()
    options = Options(
        profile,
        keyword,
        roles or ("server", "client", "cross"),
        smoke,
        repeat,
        seed,
        fail_fast,
        at_once,
        known,
        attach,
        where,
    )
    try:
        manifests = [Manifest.read(path) for path in drivers]
        names = [manifest.name for manifest in manifests]
        if len(set(names)) != len(names):
            raise DriverError(f"two drivers of one name: {', '.join(names)}")
        if only_list:
            for manifest in manifests:
                for case in session.select(options, manifest):
                    click.echo(f"{manifest.name} {case['id']}")
            return
        tried = reports.read_mutants(mutants) if mutants else None
        for manifest in manifests:
            manifest.prepare()
        made = Session(options, manifests)
        with provide(where) as redis, reports.Live(console, made) as live:
            try:
                asyncio.run(session.run(made, redis, live.take))
            except KeyboardInterrupt:
                made.interrupted = True
    except (DriverError, ServerError, SuiteError, OSError) as error:
        console.print(f"sabir-conformance: {error}", style="red", markup=False, highlight=False)
        sys.exit(2)
    reports.write(made, console, junit=junit, jsonl=jsonl, folder=report, mutants=tried)
    if made.interrupted:
        sys.exit(130)
    sys.exit(0 if made.green else 1)


@main.command("list", epilog=EXIT)
@click.option("-k", "keyword", default="", help="Only cases whose id, title or rule holds this, or fits it as a pattern.")
@click.option("--rules", is_flag=True, help="The rules of the specification instead, and how they are covered.")
@click.option(
    "--kills",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --rules: what `sabir-conformance mutants --out` wrote, to tell which rules are proven.",
)
def list_(keyword: str, rules: bool, kills: Path | None) -> None:
    """List the cases, or the rules."""
    if rules:
        try:
            killed = None if kills is None else mutants_run.read_kills(kills)
        except DriverError as error:
            raise click.UsageError(str(error)) from None
        for rule in session.requirements(killed):
            click.echo(f"{rule.id:22} {rule.state:9} {len(rule.cases):4} cases  {rule.text[2:100]}")
        return
    chosen = [case for case in [*all_cases(), *cross.cases()] if session.matches(case, keyword)]
    for case in chosen:
        click.echo(f"{case['id']:60} {' '.join(case['rules'])}")
    click.echo(f"{len(chosen)} cases")


@main.command(epilog=EXIT)
@click.option("-k", "keyword", default="", help="Only mutants whose name, rule or case holds this.")
@click.option(
    "--driver",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=mutants_run.DRIVER,
    help="The Python port's driver.json. Default: that of the repository.",
)
@click.option("--redis", "where", default="embedded", show_default=True, help="As for run.")
@click.option("--jobs", type=click.IntRange(1, 64), help="Mutants side by side. Default: six for each core.")
@click.option("--jsonl", type=click.Path(path_type=Path), help="Write a line of JSON for each mutant here.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the kill matrix here, as JSON: mutants.json.")
@click.option("--require-proven", is_flag=True, help="Fail for a MUST that is neither proven nor excluded, too.")
def mutants(
    keyword: str, driver: Path, where: str, jobs: int | None, jsonl: Path | None, out: Path | None, require_proven: bool
) -> None:
    """Prove that the suite can fail: run it against the Python port with one rule broken at a time."""
    if require_proven and keyword:
        raise click.UsageError("--require-proven is about all mutants: leave -k out")
    console = Console(width=None if sys.stdout.isatty() else 160)
    with _ending(console):
        good = mutants_run.run(
            console,
            driver=driver,
            keyword=keyword,
            where=where,
            jobs=jobs,
            jsonl=jsonl,
            out=out,
            require_proven=require_proven,
        )
    sys.exit(0 if good else 1)


@main.command("soak", epilog=EXIT)
@click.option("--minutes", type=click.FloatRange(0.1), help="How long requests are sent. Default: 2.")
@click.option("--seconds", type=click.FloatRange(5), help="The same, in seconds.")
@click.option(
    "--client",
    "clients",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A driver.json whose client sends; may be repeated. Default: those of the repository.",
)
@click.option(
    "--worker",
    "workers",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A driver.json whose worker serves; may be repeated. Default: those of the repository.",
)
@click.option("--workers", "size", type=click.IntRange(2, 64), help="Workers at a time. Default: two for each --worker.")
@click.option("--seed", type=int, help="What is asked for, and what is done to whom; a soak prints its own.")
@click.option("--rate", type=click.FloatRange(1), help="Requests a second. Default: as many as the ports manage.")
@click.option(
    "--at-once", default=16, show_default=True, type=click.IntRange(1, 48), help="Pushes under way, for each client."
)
@click.option("--redis-chaos/--no-redis-chaos", default=True, show_default=True, help="Kill Redis and connections, too.")
@click.option("--plant-loss", is_flag=True, help="Lose one request on purpose: the soak has to fail, and to name it.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write soak.json into this folder.")
def soak_(
    minutes: float | None,
    seconds: float | None,
    clients: tuple[Path, ...],
    workers: tuple[Path, ...],
    size: int | None,
    seed: int | None,
    rate: float | None,
    at_once: int,
    redis_chaos: bool,
    plant_loss: bool,
    out: Path | None,
) -> None:
    """Call every port from every port while workers and Redis are killed, and account for every single request."""
    if minutes is not None and seconds is not None:
        raise click.UsageError("--minutes and --seconds are one option: leave one of them out")
    console = Console(width=None if sys.stdout.isatty() else 160)
    with _ending(console):
        options = soak.Options(
            [Manifest.read(path) for path in clients or soak.DRIVERS],
            [Manifest.read(path) for path in workers or soak.DRIVERS],
            seconds=seconds or 60 * (minutes or 2),
            size=size,
            seed=seed,
            rate=rate,
            lanes=at_once,
            redis_chaos=redis_chaos,
            plant_loss=plant_loss,
        )
        for manifest in {of.path: of for of in [*options.clients, *options.workers]}.values():
            manifest.prepare()
        with soak_report.Live(console) as live:
            made = asyncio.run(soak.run(options, live.tell))
    soak_report.show(made, console)
    if out is not None:
        soak_report.write(made, out)
    sys.exit(0 if made.green else 1)


@main.command("bench", epilog=f"{BENCH_EXAMPLES}\n\n{EXIT}")
@click.option("--short", is_flag=True, help="Under three minutes: fewer and shorter rounds, no million of anything.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds of each contestant, in turns.  [default: 7; short: 3]")
@click.option("--seconds", type=click.FloatRange(0.05), help="Seconds of a round.  [default: 1; short: 0.3]")
@click.option("--only", multiple=True, help="Scenarios: one, 64, 256, 200-KiB, idle, time-outs, workers, long-queue, …")
@click.option("--who", multiple=True, help="Contestants, by the names of contestants.json; may be repeated. Default: all.")
@click.option("--redis", "where", default="embedded", show_default=True, help="embedded, or a redis-server program.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write the report into this folder.")
@click.option("--name", default="bench", show_default=True, help="The report's files: NAME.json, NAME.md and NAME.svg.")
@click.option(
    "--readme", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Write its table and plot in here."
)
@click.option(
    "--guard", type=click.FloatRange(1), help="Fail where even the best round misses a bound by more than this factor."
)
def bench_(
    short: bool,
    rounds: int | None,
    seconds: float | None,
    only: tuple[str, ...],
    who: tuple[str, ...],
    where: str,
    out: Path | None,
    name: str,
    readme: Path | None,
    guard: float | None,
) -> None:
    """Measure what a call costs, beside the least that it can cost and beside others, in turns."""
    if unknown := set(only) - {scenario.id for scenario in bench.SCENARIOS} - set(bench.SPECIAL):
        known = ", ".join([*(scenario.id for scenario in bench.SCENARIOS), *bench.SPECIAL])
        raise click.UsageError(f"--only: expected some of {known}, got {', '.join(sorted(unknown))}")
    if "://" in where:
        raise click.UsageError(
            "--redis: expected embedded or a redis-server program: others would be measured along with it"
        )
    if readme is not None and out is None:
        raise click.UsageError("--readme shows the plot, which is written into --out")
    options = dataclasses.replace(bench.SHORT if short else bench.Options(), only=only, who=who)
    options = dataclasses.replace(options, rounds=rounds or options.rounds, seconds=seconds or options.seconds)
    console = Console(width=None if sys.stdout.isatty() else 160)
    with _ending(console), provide(where) as redis, bench_report.Live(console) as live:
        made = asyncio.run(bench.run(options, redis, live.tell))
    bench_report.show(made, console)
    if out is not None:
        for path in bench_report.write(made, out, name):
            console.print(f"written: {path}", highlight=False, soft_wrap=True)
        if readme is not None:
            bench_report.readme(made, readme, Path(os.path.relpath(out / f"{name}.svg", readme.parent)).as_posix())
    if guard is not None and (over := made.over(guard)):
        for what in over:
            console.print(f"sabir-conformance: {what}", style="red", markup=False, highlight=False)
        sys.exit(1)


@main.command("grid")
@click.argument("summary", type=click.Path(exists=True, path_type=Path))
@click.argument("markdown", type=click.Path(exists=True, path_type=Path))
@click.option("--check", is_flag=True, help="Change nothing; exit status 1 if it is stale.")
def grid_(summary: Path, markdown: Path, check: bool) -> None:
    """Write the grid of a run (the summary.json of its report) into a Markdown file, between its two markers."""
    sys.exit(grid.rewrite(summary, markdown, check))


__all__ = ["main"]
