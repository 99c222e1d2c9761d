"""The command `sabir`: what it shows, what it does, how it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support import PYTHON, Peer, Proxy, eventually, free_port

from sabir import cli, errors
from sabir.dead import decode
from sabir.messages import KEPT_BYTES, encode_dead_letter, encode_request, error_object

WORKER = "calc-1.5b1f0c3e9a7d2468"
IDS = [f"{number:032x}" for number in range(10)]
SECRET = "top secret"

Run = Callable[..., Result]


def letter(
    number: int, method: str = "add", code: int = errors.WorkerLost.code, *, age: float = 0, call: bool = False
) -> bytes:
    """A dead letter of the request IDS[number]; ``age``: seconds."""
    element = encode_request(IDS[number], "web-1.9d2e" if call else None, method, [SECRET], deadline=1_764_000_005_000)
    return encode_dead_letter(int((time.time() - age) * 1000), WORKER, error_object(code, f"because {SECRET}"), element)


def handle(raw: bytes) -> str:
    return decode(raw).digest[: cli.HANDLE]


@pytest.fixture
def run(url: str, namespace: str) -> Run:
    """Runs `sabir dead …`, without a terminal."""
    environment = {"REDIS_URL": url, "SABIR_NAMESPACE": namespace}

    def run(*arguments: str, code: int = 0, **others: str) -> Result:
        result = CliRunner().invoke(cli.main, ["dead", *arguments], env=environment | others, catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    return run


def rows(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


class Terminal:
    """`sabir` on a terminal of 100 columns."""

    def __init__(self, url: str, namespace: str, *arguments: str) -> None:
        environment = {**os.environ, "REDIS_URL": url, "SABIR_NAMESPACE": namespace, "COLUMNS": "100", "TERM": "xterm"}
        self.outside, inside = pty.openpty()
        command = [sys.executable, "-m", "sabir.cli", *arguments]
        self.process = subprocess.Popen(
            command, stdin=inside, stdout=inside, stderr=inside, env=environment, start_new_session=True
        )
        os.close(inside)
        self.output = ""

    def until(self, text: str) -> None:
        """Read until a text is shown."""
        eventually(lambda: self._read() and text in self.output, 10)

    def _read(self) -> bool:
        if select.select([self.outside], [], [], 0.05)[0]:
            try:
                self.output += os.read(self.outside, 1 << 16).decode(errors="replace")
            except OSError:  # its end was closed
                return False
        return True

    def end(self) -> int:
        """Wait for its end. Returns the exit code."""
        eventually(lambda: self._read() is False or self.process.poll() is not None, 10)
        while select.select([self.outside], [], [], 0)[0] and self._read():
            pass
        return self.process.wait(5)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.outside)


@pytest.fixture
def terminal(url: str, namespace: str) -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        made.append(Terminal(url, namespace, *arguments))
        return made[-1]

    yield start
    for one in made:
        one.close()


# ---------------------------------------------------------------------------------------------------- list


def test_list_shows_one_line_for_each_newest_last(run: Run, peer: Peer) -> None:
    raws = [letter(0, "add", age=7300), letter(1, "invoice/send", 1001, age=65), letter(2, "note", call=True)]
    peer.raw.rpush(peer.dead, *raws)
    head, *lines = run("list", "calc").stdout.splitlines()
    assert head.split() == ["letter", "id", "error", "method", "age", "size", "worker"]
    size = str(decode(raws[0]).size)
    assert lines[0].split() == [handle(raws[0]), IDS[0], "WorkerLost", "add", "2", "h", size, WORKER]
    assert lines[1].split()[:6] == [handle(raws[1]), IDS[1], "1001", "invoice/send", "65", "s"]
    assert lines[2].split()[0] == handle(raws[2])
    assert len(lines) == 3


def test_list_as_json(run: Run, peer: Peer) -> None:
    raw = letter(1, "add", 1001, call=True)
    peer.raw.rpush(peer.dead, raw)
    (row,) = rows(run("list", "calc", "--json"))
    read = decode(raw)
    assert row == {
        "letter": read.digest,
        "id": IDS[1],
        "kind": "call",
        "method": "add",
        "code": 1001,
        "error": "ApplicationError",
        "outcome": "ran",
        "idempotent": False,
        "at": read.at,
        "worker": WORKER,
        "size": read.size,
        "fault": None,
    }


def test_only_show_shows_what_was_sent(run: Run, peer: Peer) -> None:
    """SABIR-SECURITY-1."""
    raw = letter(0)
    peer.raw.rpush(peer.dead, raw, b"top secret")
    for arguments in (("list", "calc"), ("list", "calc", "--json"), ("retry", "calc", "--all", "--yes")):
        assert SECRET not in run(*arguments, code=int(arguments[0] == "retry")).output
    peer.raw.rpush(peer.dead, raw)
    assert SECRET in run("show", "calc", handle(raw)).stdout


def test_list_shows_the_newest(run: Run, peer: Peer) -> None:
    raws = [letter(number) for number in range(10)]
    peer.raw.rpush(peer.dead, *raws)
    shown = run("list", "calc", "-n", "3", "--json")
    assert [row["id"] for row in rows(shown)] == IDS[7:]
    assert shown.stderr == "the newest 3 of 10; -n takes more\n"
    assert run("list", "calc").stderr == ""


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], [0, 1, 2, 3, 4]),
        (["--method", "add"], [0, 3]),
        (["--method", "add", "--method", "note"], [0, 1, 3]),
        (["--code", "WorkerLost"], [0, 1, 2]),
        (["--code", "-32005"], [0, 1, 2]),
        (["--code", "1001", "--code", "ParseError"], [3, 4]),
        (["--before", "90m"], [0, 1]),
        (["--before", "2026-01-01"], []),
        (["--before", "2999-01-01T00:00+02:00"], [0, 1, 2, 3, 4]),
        (["--method", "add", "--code", "1001"], [3]),
        (["--method", "add", "--before", "1d"], []),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_filters(run: Run, peer: Peer, filters: list[str], expected: list[int]) -> None:
    peer.raw.rpush(
        peer.dead,
        letter(0, "add", age=7200),
        letter(1, "note", age=7200),
        letter(2, "other"),
        letter(3, "add", 1001),
        letter(4, "last", errors.ParseError.code),
    )
    shown = run("list", "calc", "--json", *filters, code=0 if expected else 1)
    assert [row["id"] for row in rows(shown)] == [IDS[number] for number in expected]
    if not expected:
        assert shown.stderr == "no dead letters of calc that match\n"


def test_a_list_without_letters(run: Run) -> None:
    assert run("list", "calc", code=1).output == "no dead letters of calc\n"


def test_what_is_no_letter_is_listed(run: Run, peer: Peer) -> None:
    peer.raw.rpush(peer.dead, b"\x1b[31m\xff", letter(0))
    lines = run("list", "calc").stdout.splitlines()
    assert lines[1].split() == [handle(b"\x1b[31m\xff"), "-", "no", "dead", "letter", "-", "-", "6", "-"]
    foreign, _ = rows(run("list", "calc", "--json"))
    assert (foreign["size"], foreign["fault"], foreign["error"]) == (6, "it is no dead letter", None)


def test_a_method_is_shown_as_it_is(run: Run, peer: Peer) -> None:
    """Neither as an emoji nor as markup."""
    peer.raw.rpush(peer.dead, letter(0, ":smile:[red]x[/red]"))
    assert ":smile:[red]x[/red]" in run("list", "calc").stdout


# ---------------------------------------------------------------------------------------------------- show


def test_show_tells_all(run: Run, peer: Peer) -> None:
    raw = letter(1, call=True)
    peer.raw.rpush(peer.dead, letter(0), raw)
    read = decode(raw)
    lines = dict(line.split(maxsplit=1) for line in run("show", "calc", IDS[1]).stdout.splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, \d s ago", lines.pop("at"))
    assert lines == {
        "letter": read.digest,
        "id": IDS[1],
        "kind": "call",
        "method": "add",
        "worker": WORKER,
        "reply_to": "web-1.9d2e",
        "error": f"WorkerLost (-32005, may have run): because {SECRET}",
        "deadline": "2025-11-24 16:00:05 UTC",
        "size": f"{read.size} bytes",
        "element": read.element.decode(),
    }


def test_show_as_json_gives_the_bytes(run: Run, peer: Peer) -> None:
    raws = [letter(0), encode_dead_letter(1, WORKER, error_object(1, "m", {"a": [1]}), b"\xff"), b"foreign", b"\xfe"]
    peer.raw.rpush(peer.dead, *raws)
    call, binary, foreign, other = rows(run("show", "calc", "--json", *map(handle, raws)))
    assert call["element"].encode() == decode(raws[0]).element
    assert (call["deadline"], call["message"], call["reply_to"]) == (1_764_000_005_000, f"because {SECRET}", None)
    assert (binary["element_base64"], binary["data"], binary["kept"]) == ("/w==", {"a": [1]}, 1)
    assert "element" not in foreign
    assert (foreign["raw"], other["raw_base64"]) == ("foreign", "/g==")


def test_show_does_nothing_to_the_terminal(run: Run, peer: Peer) -> None:
    element = '{"\x1b[31m":"\u202e\x07é"}'.encode()
    raw = encode_dead_letter(1, WORKER, error_object(1, "\x1b]0;title\x07"), element)
    peer.raw.rpush(peer.dead, raw, b"\x1b[31mforeign")
    shown = run("show", "calc", handle(raw), handle(b"\x1b[31mforeign")).stdout
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert '{"\\x1b[31m":"\\u202e\\x07é"}' in shown
    assert "\\x1b[31mforeign" in shown


def test_show_says_what_was_cut(run: Run, peer: Peer) -> None:
    """SABIR-DEAD-5."""
    raw = encode_dead_letter(1, WORKER, error_object(1, "m"), b"x" * (KEPT_BYTES + 1))
    peer.raw.rpush(peer.dead, raw)
    (row,) = rows(run("list", "calc", "--json"))
    assert (row["size"], row["fault"]) == (KEPT_BYTES + 1, f"only {KEPT_BYTES} of its {KEPT_BYTES + 1} bytes were kept")
    shown = run("show", "calc", handle(raw)).stdout
    assert "16,777,217 bytes, 16,777,216 kept" in shown
    assert "retry          not possible: only 16777216 of its 16777217 bytes were kept" in shown


# ---------------------------------------------------------------------------------------------------- which ones


def test_a_letter_has_several_names(run: Run, peer: Peer) -> None:
    raw = letter(1)
    peer.raw.rpush(peer.dead, letter(0), raw, letter(2))
    digest = decode(raw).digest
    for name in (digest[:4], digest[:8], digest[:40], digest, IDS[1]):
        assert [row["id"] for row in rows(run("show", "calc", name, "--json"))] == [IDS[1]]


def test_what_is_not_there_is_told(run: Run, peer: Peer) -> None:
    raw = letter(0)
    peer.raw.rpush(peer.dead, raw)
    shown = run("show", "calc", handle(raw), "0" * 12, "--json", code=1)
    assert len(rows(shown)) == 1
    assert shown.stderr == "no dead letter 000000000000 of calc\n"
    done = run("drop", "calc", handle(raw), "0" * 12, "--yes", code=1)
    assert done.stdout == "dropped 1 of 1\n"
    assert peer.raw.llen(peer.dead) == 0


def test_the_beginning_of_two_digests_is_refused(run: Run, peer: Peer) -> None:
    seen: dict[str, bytes] = {}
    for number in range(10**6):
        raw = b"foreign %d" % number
        other = seen.setdefault(decode(raw).digest[:4], raw)
        if other != raw:
            break
    peer.raw.rpush(peer.dead, other, raw)
    name = decode(raw).digest[:4]
    for command in (("show",), ("drop", "--yes"), ("retry", "--yes")):
        refused = run(*command, "calc", name, code=2)
        assert f"LETTER: {name} is the beginning of 2 letters: " in refused.stderr
        assert all(decode(one).digest[:12] in refused.stderr for one in (other, raw))
    assert peer.raw.llen(peer.dead) == 2


def test_one_request_may_have_several_letters(run: Run, peer: Peer) -> None:
    peer.raw.rpush(peer.dead, letter(0, age=5), letter(1), letter(0))
    assert run("drop", "calc", IDS[0], "--yes").stdout == "dropped 2 of 2\n"
    assert peer.raw.llen(peer.dead) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list"], "Missing argument 'SERVICE'"),
        (["list", "a}"], "service: expected"),
        (["list", "calc", "--namespace", "a b"], "namespace: expected"),
        (["list", "calc", "--url", "http://x"], "Redis URL must specify"),
        (["list", "calc", "-n", "0"], "-n"),
        (["list", "calc", "--code", "Lost"], "expected an integer or one of ParseError, "),
        (
            ["list", "calc", "--before", "soon"],
            "expected an age (90s, 10m, 2h, 7d) or a time (2026-11-23T12:00), got 'soon'",
        ),
        (["show", "calc"], "Missing argument 'LETTER...'"),
        (["show", "calc", "abc"], "LETTER: expected 4 to 64 lower-case hexadecimal digits, got 'abc'"),
        (["drop", "calc"], "which ones to drop?"),
        (["retry", "calc"], "which ones to retry?"),
        (["drop", "calc", "abcd", "--all"], "one of the three"),
        (["drop", "calc", "abcd", "--method", "add"], "one of the three"),
        (["drop", "calc", "--all", "--before", "1h"], "one of the three"),
        (["bury", "calc"], "No such command 'bury'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use(run: Run, peer: Peer, arguments: list[str], message: str) -> None:
    peer.raw.rpush(peer.dead, letter(0))
    refused = run(*arguments, code=2)
    assert message in refused.stderr
    assert refused.stdout == ""
    assert peer.raw.llen(peer.dead) == 1


# ---------------------------------------------------------------------------------------------------- retry, drop


def test_retry_sends_again(run: Run, peer: Peer) -> None:
    """SABIR-DEAD-6."""
    raws = [letter(0), letter(1), letter(2, call=True)]
    peer.raw.rpush(peer.dead, *raws)
    done = run("retry", "calc", handle(raws[0]), IDS[2], "--yes")
    assert done.output == "retried 2 of 2\n"
    assert peer.raw.lrange(peer.dead, 0, -1) == [raws[1]]
    sent = [json.loads(element) for element in peer.raw.lrange(peer.requests, 0, -1)]
    assert [element["id"] for element in sent] == [IDS[0], IDS[2]]
    assert not any("deadline" in element for element in sent)


def test_what_can_not_be_sent_again_stays(run: Run, peer: Peer) -> None:
    raws = [b"foreign", letter(0), encode_dead_letter(1, WORKER, error_object(1, "m"), b"hello")]
    peer.raw.rpush(peer.dead, *raws)
    done = run("retry", "calc", "--all", "--yes", code=1)
    assert done.stdout == "retried 1 of 1\n"
    assert f"{handle(raws[0])} - can't be sent again: it is no dead letter\n" in done.stderr
    assert f"{handle(raws[2])} - can't be sent again: expected UTF-8 JSON" in done.stderr
    assert peer.raw.lrange(peer.dead, 0, -1) == [raws[0], raws[2]]
    assert [row["result"] for row in rows(run("retry", "calc", "--all", "--yes", "--json", code=1))] == ["stuck", "stuck"]


def test_what_was_done_as_json(run: Run, peer: Peer) -> None:
    raws = [letter(0), b"foreign"]
    peer.raw.rpush(peer.dead, *raws)
    done = run("retry", "calc", "--all", "--yes", "--json", code=1)
    assert rows(done) == [
        {"letter": decode(b"foreign").digest, "id": None, "result": "stuck"},
        {"letter": decode(raws[0]).digest, "id": IDS[0], "result": "retried"},
    ]
    assert rows(run("drop", "calc", "--all", "--yes", "--json")) == [
        {"letter": decode(b"foreign").digest, "id": None, "result": "dropped"}
    ]


def test_drop_removes_those_that_match(run: Run, peer: Peer) -> None:
    raws = [letter(0, age=100), letter(1, "note", age=100), letter(2), letter(3, age=100)]
    peer.raw.rpush(peer.dead, *raws)
    assert run("drop", "calc", "--method", "add", "--before", "60s", "--limit", "1", "-y").stdout == "dropped 1 of 1\n"
    assert peer.raw.lrange(peer.dead, 0, -1) == raws[1:]
    assert run("drop", "calc", "--method", "add", "--before", "60s", "-y").stdout == "dropped 1 of 1\n"
    assert peer.raw.lrange(peer.dead, 0, -1) == raws[1:3]
    assert run("drop", "calc", "--method", "none", "-y", code=1).stderr == "no dead letters of calc that match\n"
    assert peer.raw.llen(peer.requests) == 0


def test_equal_letters_are_all_dropped(run: Run, peer: Peer) -> None:
    peer.raw.rpush(peer.dead, *[b"x"] * 300, letter(0))
    assert run("drop", "calc", "--all", "--yes").stdout == "dropped 301 of 301\n"
    assert peer.raw.llen(peer.dead) == 0


@pytest.mark.parametrize("command", ["retry", "drop"])
def test_without_a_terminal_nothing_is_done_unless_told(run: Run, peer: Peer, command: str) -> None:
    peer.raw.rpush(peer.dead, letter(0))
    refused = run(command, "calc", "--all", code=2)
    assert f"1 to {command}, and no terminal to ask at: say --yes" in refused.stderr
    assert peer.raw.llen(peer.dead) == 1


# ---------------------------------------------------------------------------------------------------- at a terminal


def test_it_shows_what_it_will_do_and_asks(terminal: Callable[..., Terminal], peer: Peer) -> None:
    raws = [letter(number % 10, age=number) for number in range(25)]
    peer.raw.rpush(peer.dead, *raws)
    at = terminal("dead", "retry", "calc", "--all")
    at.until("retry 25 dead letters of calc? [y/N]: ")
    assert [handle(raw) in at.output for raw in raws] == [True] * 20 + [False] * 5
    assert "… and 5 more" in at.output
    assert "25 of them ran, or may have run, and are not idempotent" in at.output
    assert SECRET not in at.output
    os.write(at.outside, b"n\n")
    assert at.end() == 1
    assert "nothing was done" in at.output
    assert peer.raw.lrange(peer.dead, 0, -1) == raws

    at = terminal("dead", "drop", "calc", IDS[3])
    at.until("drop 3 dead letters of calc? [y/N]: ")
    os.write(at.outside, b"y\n")
    assert at.end() == 0
    assert "dropped 3 of 3" in at.output
    assert peer.raw.llen(peer.dead) == 22


def test_who_was_quicker_meanwhile_is_told(terminal: Callable[..., Terminal], peer: Peer) -> None:
    """SABIR-DEAD-6: the list has moved while somebody thought."""
    raws = [letter(number) for number in range(4)]
    peer.raw.rpush(peer.dead, *raws)
    at = terminal("dead", "retry", "calc", handle(raws[1]), handle(raws[3]))
    at.until("[y/N]: ")
    peer.raw.lpop(peer.dead, 2)
    peer.raw.rpush(peer.dead, letter(5))
    os.write(at.outside, b"y\n")
    assert at.end() == 1
    assert "retried 1 of 2" in at.output
    assert f"{handle(raws[1])} {IDS[1]} was not there any more" in at.output
    assert [json.loads(element)["id"] for element in peer.raw.lrange(peer.requests, 0, -1)] == [IDS[3]]
    assert peer.raw.llen(peer.dead) == 2


@pytest.mark.parametrize("how", ["Ctrl-C", "Ctrl-D"])
def test_an_interrupt_ends_it_without_a_trace(terminal: Callable[..., Terminal], peer: Peer, how: str) -> None:
    peer.raw.rpush(peer.dead, letter(0))
    at = terminal("dead", "drop", "calc", "--all")
    at.until("[y/N]: ")
    if how == "Ctrl-C":
        at.process.send_signal(signal.SIGINT)
    else:
        os.write(at.outside, b"\x04")
    assert at.end() == 130
    assert "sabir: interrupted" in at.output
    assert "Traceback" not in at.output
    assert peer.raw.llen(peer.dead) == 1


def test_the_bar_does_not_take_what_goes_to_a_file(url: str, namespace: str, peer: Peer, tmp_path: Path) -> None:
    peer.raw.rpush(peer.dead, *(b"foreign %d" % number for number in range(300)))
    outside, inside = pty.openpty()
    command = [sys.executable, "-m", "sabir.cli", "dead", "drop", "calc", "--all", "--yes", "--json"]
    environment = {**os.environ, "REDIS_URL": url, "SABIR_NAMESPACE": namespace, "TERM": "xterm"}
    with (tmp_path / "out").open("wb") as out:
        subprocess.run(command, stdin=inside, stdout=out, stderr=inside, env=environment, check=True, timeout=20)
    assert {json.loads(line)["result"] for line in (tmp_path / "out").read_text().splitlines()} == {"dropped"}
    assert len((tmp_path / "out").read_text().splitlines()) == 300
    for end in (inside, outside):
        os.close(end)


def test_an_interrupt_while_redis_is_silent(terminal: Callable[..., Terminal], proxy: Proxy, peer: Peer) -> None:
    peer.raw.rpush(peer.dead, *(b"foreign %d" % number for number in range(300)))
    proxy.mute(b"LREM")
    at = terminal("dead", "drop", "calc", "--all", "--yes", "--url", proxy.url)
    assert proxy.acted.wait(10)
    at.process.send_signal(signal.SIGINT)
    assert at.end() == 130
    assert "dropped 0 of 300" in at.output
    assert "Traceback" not in at.output
    assert at.output.count("\x1b[?25l") == at.output.count("\x1b[?25h") == 2  # the cursor that the bar hides


def test_a_long_list_has_a_progress_bar(terminal: Callable[..., Terminal], peer: Peer) -> None:
    peer.raw.rpush(peer.dead, *(b"foreign %d" % number for number in range(500)))
    at = terminal("dead", "drop", "calc", "--all", "--yes")
    assert at.end() == 0
    assert "reading calc" in at.output
    assert "drop calc" in at.output
    assert "dropped 500 of 500" in at.output


# ---------------------------------------------------------------------------------------------------- around it


def test_a_redis_that_is_not_there(run: Run) -> None:
    refused = run("list", "calc", code=2, REDIS_URL=f"redis://:hidden@127.0.0.1:{free_port()}/0")
    assert refused.stderr.startswith("sabir: no connection to Redis: ")
    assert "hidden" not in refused.output
    assert refused.stderr.count("\n") == 1


def test_a_redis_that_refuses(run: Run, peer: Peer) -> None:
    peer.raw.set(peer.dead, "no list")
    assert "WRONGTYPE" in run("list", "calc", code=2).stderr


def test_options_go_before_the_environment(run: Run, url: str, namespace: str, peer: Peer) -> None:
    peer.raw.rpush(peer.dead, letter(0))
    other = {"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0", "SABIR_NAMESPACE": "other"}
    run("list", "calc", "--url", url, "--namespace", namespace, **other)


COMMANDS = [[], ["dead"], *(["dead", name] for name in ("list", "show", "retry", "drop"))]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_exit_codes_and_examples_that_work(run: Run, command: list[str]) -> None:
    help = CliRunner().invoke(cli.main, [*command, "--help"]).stdout
    status = " ".join(help.partition("Exit status: ")[2].split())
    assert re.match(r"0 done; 1 .*; 2 .*; 130 interrupted\.", status)
    assert max(map(len, help.splitlines())) <= 80
    examples = re.findall(r"^ +sabir dead (.*)$", help, re.M)
    assert bool(examples) == bool(command)
    for example in examples:
        run(*shlex.split(re.split(r" \||>", example)[0]), code=1)  # there are no letters


def test_the_readme_s_commands_work(run: Run) -> None:
    (block,) = re.findall(r"^```sh\n(.*?)^```$", (PYTHON / "README.md").read_text(), re.M | re.S)
    for line in block.splitlines():
        run(*shlex.split(line)[2:], code=1)  # there are no letters


def test_the_version(run: Run) -> None:
    assert CliRunner().invoke(cli.main, ["--version"]).stdout == "sabir, version 0.1.0\n"


def test_without_the_extra_it_says_what_to_install() -> None:
    for missing in ("click", "rich.console"):
        script = f"import sys; sys.modules[{missing!r}] = None; import sabir.cli"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"sabir: {missing} is not installed; the command needs it: pip install 'sabir[cli]'\n"


def test_the_command_is_installed_and_the_extra_is_named() -> None:
    project = tomllib.loads((PYTHON / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"sabir": "sabir.cli:main"}
    assert {re.split("[<>=]", one)[0] for one in project["optional-dependencies"]["cli"]} == {"click", "rich"}
    source = Path(cli.__file__).read_text()
    assert set(re.findall(r"^    (?:import|from) (\w+)", source, re.M)) == {"click", "rich"}


def test_a_reader_that_goes_away_is_no_trouble(url: str, namespace: str, peer: Peer) -> None:
    peer.raw.rpush(peer.dead, *(b"foreign %d" % number for number in range(1000)))
    environment = {**os.environ, "REDIS_URL": url, "SABIR_NAMESPACE": namespace}
    command = f"{shlex.quote(sys.executable)} -m sabir.cli dead list calc -n 1000 --json | head -n 1"
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=False, timeout=20)
    assert json.loads(done.stdout)["size"] == 9
    assert done.stderr == ""
