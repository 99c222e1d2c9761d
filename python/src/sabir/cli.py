"""The command ``sabir``; it needs the extra ``sabir[cli]`` (click, rich)."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

try:
    import click
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table
except ModuleNotFoundError as missing:
    print(f"sabir: {missing.name} is not installed; the command needs it: pip install 'sabir[cli]'", file=sys.stderr)
    raise SystemExit(2) from None

from . import __version__, errors
from ._link import DEFAULT_URL
from .dead import DeadLetter, DeadLetters
from .errors import NEVER_STARTED, SabirError
from .keys import NAMESPACE, is_id

HANDLE: Final = 8
"""Digits of a digest that are shown."""
PREVIEW: Final = 20
"""Rows that are shown before something is done."""
MANY: Final = 200
"""Letters from which on there is a progress bar."""

EXIT: Final = """\b
Exit status: 0 done; 1 nothing matched, or something was not there any more,
can't be sent again or was not confirmed; 2 wrong use, or Redis was not
reached or refuses; 130 interrupted."""

LETTERS: Final = f"""\b
LETTER is what `sabir dead list` shows in its first column: the beginning of
the SHA-256 of the letter's bytes, 4 digits or more ({HANDLE} are shown); or the id
of its request. Both hold wherever the letter stands in the list by now."""


class _Main(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        """Turn what Redis does, and Ctrl-C, into exit codes."""
        try:
            return super().invoke(ctx)
        except SabirError as error:
            click.echo(f"sabir: {_plain(error.message)}", err=True)
            ctx.exit(2)
        except (KeyboardInterrupt, click.Abort):
            click.echo("sabir: interrupted", err=True)
            ctx.exit(130)


@click.group(cls=_Main, epilog=EXIT)
@click.version_option(__version__, prog_name="sabir")
def main() -> None:
    """Looks after services that are served with Sabir."""


@main.group(epilog=EXIT)
def dead() -> None:
    """Dead letters: requests that could be neither answered nor run to their end.

    \b
    Examples:
      sabir dead list invoices
      sabir dead show invoices 3fd1a02b
      sabir dead retry invoices --method invoice/send --before 10m
      sabir dead drop invoices --code ParseError --yes
    """


# ---------------------------------------------------------------------------------------------------- parameters


_AGE: Final = re.compile(r"([0-9]{1,9})([smhd])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _code(value: str) -> int:
    """A code, or the name of one of the table."""
    codes = {cls.__name__: code for code, cls in errors.TABLE.items()}
    try:
        return codes[value] if value in codes else int(value)
    except ValueError:
        raise click.BadParameter(f"expected an integer or one of {', '.join(codes)}, got {value!r}") from None


def _before(value: str) -> Callable[[int], int]:
    """A moment, in ms since 1970, from Redis's clock now."""
    age = _AGE.fullmatch(value)
    if age:
        return lambda now: now - int(age[1]) * _UNITS[age[2]] * 1000
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(
            f"expected an age (90s, 10m, 2h, 7d) or a time (2026-11-23T12:00), got {value!r}"
        ) from None
    at = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    return lambda _: at


Command = Callable[..., Any]


def _with(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_REDIS: Final = _with(
    click.option("--url", envvar="REDIS_URL", show_envvar=True, default=DEFAULT_URL, show_default=True, help="The Redis."),
    click.option(
        "--namespace",
        envvar="SABIR_NAMESPACE",
        show_envvar=True,
        default=NAMESPACE,
        show_default=True,
        help="The first part of all keys.",
    ),
    click.option("--json", "as_json", is_flag=True, help="A line of JSON for each letter."),
)
_FILTERS: Final = _with(
    click.option("--method", "methods", multiple=True, help="Of this method; may be repeated."),
    click.option(
        "--code",
        "codes",
        multiple=True,
        type=_code,
        metavar="CODE",
        help="With this error (-32005, WorkerLost); may be repeated.",
    ),
    click.option(
        "--before",
        type=_before,
        metavar="TIME",
        help="Older than an age (90s, 10m, 2h, 7d) or a time (ISO 8601; UTC if it has no zone).",
    ),
)
_ACT: Final = _with(
    click.argument("service"),
    click.argument("letters", nargs=-1, metavar="[LETTER]..."),
    _FILTERS,
    click.option("--all", "everything", is_flag=True, help="All of them."),
    click.option("-n", "--limit", type=click.IntRange(1), help="At most so many, oldest first."),
    click.option("-y", "--yes", is_flag=True, help="Don't ask."),
    _REDIS,
)  # fmt: skip


def _open(service: str, url: str, namespace: str) -> DeadLetters:
    try:
        return DeadLetters(service, url, namespace=namespace)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@dataclass
class _Choice:
    """Which letters are meant: those that fit every filter, and are named if any is named."""

    names: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    codes: tuple[int, ...] = ()
    before: int | None = None
    found: dict[str, set[str]] = field(default_factory=dict)
    """Name → digests of the letters that it fits."""

    def __post_init__(self) -> None:
        for name in self.names:
            if not re.fullmatch("[0-9a-f]{4,64}", name):
                raise click.UsageError(f"LETTER: expected 4 to 64 lower-case hexadecimal digits, got {name!r}")

    def takes(self, letter: DeadLetter) -> bool:
        """Whether a letter is meant."""
        if self.names:
            fits = [name for name in self.names if letter.digest.startswith(name) or letter.id == name]
            for name in fits:
                self.found.setdefault(name, set()).add(letter.digest)
            return bool(fits)
        return (
            (not self.methods or letter.method in self.methods)
            and (not self.codes or (letter.error is not None and letter.error.code in self.codes))
            and (self.before is None or (letter.at is not None and letter.at < self.before))
        )

    def absent(self) -> list[str]:
        """The names that fitted nothing. Raises UsageError for a beginning that fits several letters."""
        for name, digests in self.found.items():
            if len(digests) > 1 and not is_id(name):
                some = ", ".join(digest[: len(name) + HANDLE] for digest in sorted(digests))
                raise click.UsageError(f"LETTER: {name} is the beginning of {len(digests)} letters: {some}")
        return [name for name in self.names if name not in self.found]


# ---------------------------------------------------------------------------------------------------- what is shown


def _row(letter: DeadLetter) -> dict[str, Any]:
    """What a list tells of a letter: nothing of what its sender wrote but the method's name (SABIR-SECURITY-1)."""
    error, request = letter.error, letter.request
    return {
        "letter": letter.digest,
        "id": letter.id,
        "kind": letter.kind,
        "method": letter.method,
        "code": error.code if error else None,
        "error": type(error).__name__ if error else None,
        "outcome": error.outcome if error else None,
        "idempotent": request.idempotent if request else None,
        "at": letter.at,
        "worker": letter.worker,
        "size": letter.size if letter.is_letter else len(letter.raw),
        "fault": letter.fault,
    }


def _content(letter: DeadLetter) -> dict[str, Any]:
    """What `show` tells beyond the row."""
    error, request = letter.error, letter.request
    content: dict[str, Any] = {
        "message": error.message if error else None,
        "data": error.data if error else None,
        "reply_to": request.reply_to if request else None,
        "deadline": request.deadline if request else None,
        "traceparent": request.traceparent if request else None,
        "kept": len(letter.raw if letter.element is None else letter.element),
    }
    name, data = ("raw", letter.raw) if letter.element is None else ("element", letter.element)
    try:
        return content | {name: data.decode()}
    except UnicodeDecodeError:
        return content | {f"{name}_base64": base64.b64encode(data).decode()}


def _plain(text: str) -> str:
    """Text that does nothing to a terminal: what is not printable is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _age(now: int, at: int | None) -> str:
    if at is None:
        return "-"
    seconds = max(now - at, 0) // 1000
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _time(at: int) -> str:
    try:
        return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{at} ms since 1970"


def _error(row: dict[str, Any]) -> str:
    """The error's name, or the code that an application gave it."""
    if row["code"] is None:
        return "no dead letter"
    return str(row["error"] if row["code"] in errors.TABLE else row["code"])


def _print_rows(rows: Iterable[dict[str, Any]], now: int, *, err: bool = False) -> None:
    console = Console(stderr=err, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = 1000  # whole lines, for grep
    table = Table(box=None, pad_edge=False)
    for name in ("letter", "id", "error"):
        table.add_column(name, no_wrap=True)
    table.add_column("method", overflow="fold")
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    if console.width >= 100:
        table.add_column("worker", overflow="ellipsis")
    for row in rows:
        id, method, worker = (row[name] or "-" for name in ("id", "method", "worker"))
        cells = row["letter"][:HANDLE], id, _error(row), method, _age(now, row["at"]), f"{row['size']:,}", worker
        table.add_row(*cells[: len(table.columns)])
    console.print(table)


@contextmanager
def _letters(dead: DeadLetters, what: str) -> Iterator[Iterable[DeadLetter]]:
    """All of them; where that takes a while and somebody looks, with a progress bar."""
    console, count = Console(stderr=True), dead.count()
    if count < MANY or not console.is_terminal:
        yield dead
        return
    with Progress(console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as progress:
        yield progress.track(dead, count, description=f"{what} {dead.service}")


# ---------------------------------------------------------------------------------------------------- commands


@dead.command("list", epilog=EXIT)
@click.argument("service")
@_FILTERS
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True, help="The newest so many of them.")
@_REDIS
def list_(
    service: str,
    methods: tuple[str, ...],
    codes: tuple[int, ...],
    before: Callable[[int], int] | None,
    limit: int,
    url: str,
    namespace: str,
    as_json: bool,
) -> None:
    """List a service's dead letters, newest last, without what they hold.

    \b
    Examples:
      sabir dead list invoices
      sabir dead list invoices --code WorkerLost --before 1h -n 1000
      sabir dead list invoices --json | jq -r .method | sort | uniq -c
    """
    with _open(service, url, namespace) as dead:
        now = dead.now_ms()
        choice = _Choice((), methods, codes, before(now) if before else None)
        rows: deque[dict[str, Any]] = deque(maxlen=limit)
        count = 0
        with _letters(dead, "reading") as letters:
            for letter in filter(choice.takes, letters):
                rows.append(_row(letter))
                count += 1
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    elif rows:
        _print_rows(rows, now)
    if count > len(rows):
        click.echo(f"the newest {len(rows)} of {count}; -n takes more", err=True)
    if not rows:
        click.echo(f"no dead letters of {service}" + (" that match" if methods or codes or before else ""), err=True)
        sys.exit(1)


@dead.command(epilog=f"{LETTERS}\n\n{EXIT}")
@click.argument("service")
@click.argument("letters", nargs=-1, required=True, metavar="LETTER...")
@_REDIS
def show(service: str, letters: tuple[str, ...], url: str, namespace: str, as_json: bool) -> None:
    """Show dead letters with all that they hold.

    \b
    Examples:
      sabir dead show invoices 3fd1a02b
      sabir dead show invoices 5f0c2b7e9a1d4c3f8e6b0a9d7c5e3f12
      sabir dead show invoices 3fd1a02b --json | jq -r .element
    """
    choice = _Choice(letters)
    with _open(service, url, namespace) as dead, _letters(dead, "reading") as all_of_them:
        now = dead.now_ms()
        chosen = list(filter(choice.takes, all_of_them))
    absent = choice.absent()
    for number, letter in enumerate(chosen):
        if as_json:
            click.echo(json.dumps(_row(letter) | _content(letter)))
        else:
            click.echo("\n" * bool(number) + _described(_row(letter) | _content(letter), now))
    _tell_absent(service, absent)
    sys.exit(1 if absent else 0)


def _described(letter: dict[str, Any], now: int) -> str:
    lines = {name: letter[name] for name in ("letter", "id", "kind", "method", "worker", "reply_to", "traceparent")}
    if letter["at"] is not None:
        lines["at"] = f"{_time(letter['at'])}, {_age(now, letter['at'])} ago"
    if letter["code"] is not None:
        lines["error"] = f"{letter['error']} ({letter['code']}, {letter['outcome']}): {letter['message']}"
    lines["data"] = None if letter["data"] is None else json.dumps(letter["data"], ensure_ascii=False)
    lines["idempotent"] = "yes" if letter["idempotent"] else None
    lines["deadline"] = None if letter["deadline"] is None else _time(letter["deadline"])
    lines["size"] = f"{letter['size']:,} bytes" + (f", {letter['kept']:,} kept" if letter["kept"] != letter["size"] else "")
    lines["retry"] = letter["fault"] and f"not possible: {letter['fault']}"
    content = next(name for name in ("element", "element_base64", "raw", "raw_base64") if name in letter)
    lines[content] = letter[content]
    return "\n".join(f"{name:15}{_plain(value)}" for name, value in lines.items() if value is not None)


def _tell_absent(service: str, absent: list[str]) -> None:
    for name in absent:
        click.echo(f"no dead letter {name} of {service}", err=True)


@dead.command(epilog=f"{LETTERS}\n\n{EXIT}")
@_ACT
def retry(**options: Any) -> None:
    """Send the requests of dead letters again; the letters are gone then.

    A request goes to the end of the queue as it was, without its deadline. Of a call, nobody waits for the reply any
    more: its handler runs, that is all. What was cut, or is no request, can't be sent again and stays.

    \b
    Examples:
      sabir dead retry invoices 3fd1a02b 77e0c1d4
      sabir dead retry invoices --method invoice/send --before 10m
      sabir dead retry invoices --all --yes --json
    """
    _act("retry", "retried", DeadLetters.retry, **options)


@dead.command(epilog=f"{LETTERS}\n\n{EXIT}")
@_ACT
def drop(**options: Any) -> None:
    """Remove dead letters for good.

    \b
    Examples:
      sabir dead drop invoices 3fd1a02b
      sabir dead drop invoices --code ParseError --before 7d --yes
      sabir dead drop invoices --all
    """
    _act("drop", "dropped", DeadLetters.drop, **options)


def _act(
    verb: str,
    done: str,
    act: Callable[[DeadLetters, DeadLetter], bool],
    *,
    service: str,
    letters: tuple[str, ...],
    methods: tuple[str, ...],
    codes: tuple[int, ...],
    before: Callable[[int], int] | None,
    everything: bool,
    limit: int | None,
    yes: bool,
    url: str,
    namespace: str,
    as_json: bool,
) -> None:
    """Choose, show, ask, do."""
    if bool(letters) + bool(methods or codes or before) + everything != 1:
        raise click.UsageError(
            f"which ones to {verb}? LETTER..., or --method, --code, --before, or --all: one of the three"
        )
    with _open(service, url, namespace) as dead:
        now = dead.now_ms()
        choice = _Choice(letters, methods, codes, before(now) if before else None)
        rows: list[dict[str, Any]] = []
        stuck: list[dict[str, Any]] = []
        with _letters(dead, "reading") as all_of_them:
            for row in map(_row, filter(choice.takes, all_of_them)):
                if verb == "retry" and row["fault"]:
                    stuck.append(row)
                elif limit is None or len(rows) < limit:
                    rows.append(row)
        absent = choice.absent()
        _tell_absent(service, absent)
        results = Counter(gone=len(absent))
        for row in stuck:
            _tell(row, "stuck", results, as_json)
        if not rows:
            if not letters and not stuck:
                click.echo(f"no dead letters of {service} that match", err=True)
            sys.exit(1)
        if not yes:
            _confirm(verb, service, rows, now)
        left = Counter(row["letter"] for row in rows)
        try:
            with _letters(dead, verb) as all_of_them:
                for letter in all_of_them:
                    for _ in range(left.pop(letter.digest, 0)):  # more than one: they are equal
                        _tell(_row(letter), done if act(dead, letter) else "gone", results, as_json)
                    if not left:
                        break
            for row in rows:
                if left[row["letter"]]:
                    left[row["letter"]] -= 1
                    _tell(row, "gone", results, as_json)
        finally:
            click.echo(f"{done} {results[done]} of {len(rows)}", err=as_json)
    sys.exit(1 if results["gone"] or results["stuck"] else 0)


def _tell(row: dict[str, Any], result: str, results: Counter[str], as_json: bool) -> None:
    """Note what became of a letter and tell it: as JSON, or where it is not what was wanted."""
    results[result] += 1
    if as_json:
        click.echo(json.dumps({"letter": row["letter"], "id": row["id"], "result": result}))
    elif result in ("gone", "stuck"):
        why = "was not there any more" if result == "gone" else f"can't be sent again: {row['fault']}"
        click.echo(f"{row['letter'][:HANDLE]} {row['id'] or '-'} {why}", err=True)


def _confirm(verb: str, service: str, rows: list[dict[str, Any]], now: int) -> None:
    """Show what will be done and ask; without a terminal, refuse."""
    if not sys.stdin.isatty():
        raise click.UsageError(f"{len(rows)} to {verb}, and no terminal to ask at: say --yes")
    _print_rows(rows[:PREVIEW], now, err=True)
    if len(rows) > PREVIEW:
        click.echo(f"… and {len(rows) - PREVIEW} more", err=True)
    if verb == "retry":
        twice = sum(not row["idempotent"] and row["outcome"] != NEVER_STARTED for row in rows)
        if twice:
            click.echo(f"{twice} of them ran, or may have run, and are not idempotent", err=True)
    letters = "dead letter" if len(rows) == 1 else "dead letters"
    if not click.confirm(f"{verb} {len(rows)} {letters} of {service}?", err=True):
        click.echo("nothing was done", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
