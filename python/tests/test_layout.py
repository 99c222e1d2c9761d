"""What holds for the folder: one place for keys, a public surface, a README that is true, examples that run."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import PROTOCOL, PYTHON, Peer, eventually, redis_server

import sabir
import sabir.aio
import sabir.testing

SOURCE = PYTHON / "src" / "sabir"
README = (PYTHON / "README.md").read_text()


def sources() -> Iterator[tuple[str, str]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield str(path.relative_to(SOURCE)), path.read_text()


def test_nobody_else_spells_a_key() -> None:
    """SABIR-KEY-1."""
    for name, text in sources():
        strings = [n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        spelled = [s for s in strings if re.search(r"\{\w*\}:|:(requests|active|reply|alive|leases|dead|attempts)\b", s)]
        spelled += re.findall(r"\}\}:|[\"'](?:requests|leases|active:|reply:|attempts:)[\"']", text)
        assert bool(spelled) == (name == "keys.py"), (name, spelled)


def test_no_name_from_the_wire_is_looked_up_or_run() -> None:
    """SABIR-BODY-3: getattr() stands only where a programmer's names, or redis-py's, are looked up."""
    for name, text in sources():
        calls = [n.func.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
        assert not {"eval", "exec", "compile", "__import__", "globals", "vars"} & set(calls)
        assert name in ("dispatch.py", "_link.py") or "getattr" not in calls


def test_the_pure_files_are_pure() -> None:
    for name in ("keys", "errors", "messages", "commands"):
        tree = ast.parse((SOURCE / f"{name}.py").read_text())
        imported = {a.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        assert not imported & {"socket", "time", "random", "secrets", "redis", "asyncio", "threading", "os"}


def test_the_scripts_are_the_protocols() -> None:
    """Section 16: every port carries a copy, byte for byte."""
    scripts = {path.name: path.read_bytes() for path in (PROTOCOL / "scripts").iterdir()}
    assert {path.name: path.read_bytes() for path in (SOURCE / "scripts").iterdir()} == scripts


def test_only_rules_that_exist_are_named() -> None:
    rules = set(re.findall(r"^#### (SABIR-[A-Z]+-\d+)$", (PROTOCOL / "spec.md").read_text(), re.M))
    files = [*SOURCE.rglob("*.py"), *(PYTHON / "tests").glob("*.py")]
    named = {rule for path in files for rule in re.findall(r"SABIR-[A-Z]+-\d+", path.read_text())}
    assert named <= rules, named - rules
    assert len(named) > 50


def signatures(cls: Any) -> dict[str, str]:
    found = {"": str(inspect.signature(cls))} if "__init__" in vars(cls) else {}
    for name in dir(cls):
        value = inspect.getattr_static(cls, name)
        if not name.startswith("_") and inspect.isfunction(value):
            found[name] = ", ".join(p for p in inspect.signature(value).parameters if p != "self")
    return found


def test_the_public_surface() -> None:
    names = {row["name"] for row in json.loads((PROTOCOL / "errors.json").read_text())["errors"]}
    others = {"ApplicationError", "Client", "Context", "SabirError", "Server", "Service", "context"}
    assert set(sabir.__all__) == names | others
    assert set(sabir.aio.__all__) == {"Client", "Server", "Service", "context"}
    assert all(getattr(sabir, name) for name in sabir.__all__)
    methods = {
        "call": "service, method, params, timeout, idempotent, traceparent",
        "many": "service, calls, timeout, idempotent",
        "retry": "service, method, params, timeout, idempotent, traceparent",
        "wait_for_service": "service, timeout",
        "notify": "service, method, params, expires, idempotent, traceparent, timeout",
        "service": "service, timeout, idempotent",
        "close": "",
    }
    for client in (sabir.Client, sabir.aio.Client):
        found = signatures(client)
        options = "url, redis, namespace, name, timeout, errors, max_queue, max_bytes, max_depth"
        assert ", ".join(inspect.signature(client).parameters) == options
        assert {name: found[name] for name in found if name} == methods
    for double in (sabir.testing.InProcessClient, sabir.testing.AsyncInProcessClient):
        found = signatures(double)
        assert {name: found[name] for name in found if name} == methods
    server = {
        "method": "handler, name",
        "register": "name, handler",
        "expose": "target, only",
        "find": "name",
        "run": "stop_timeout",
        "start": "",
        "wait_ready": "timeout",
        "stop": "timeout",
        "dispatcher": "clock",
    }
    for kind, bound in ((sabir.Server, "threads"), (sabir.aio.Server, "concurrency")):
        options = f"service, url, redis, namespace, name, {bound}, handler_timeout, traces, max_bytes, max_depth"
        assert ", ".join(inspect.signature(kind).parameters) == options
        found = signatures(kind)
        assert {name: found[name] for name in found if name} == server
    context = "id, service, method, worker, caller, traceparent, attempt, deadline, clock"
    assert ", ".join(inspect.signature(sabir.Context).parameters) == context


def test_public_things_are_documented() -> None:
    for module in (sabir, sabir.aio, sabir.testing):
        for name in getattr(module, "__all__", ["InProcessClient", "AsyncInProcessClient"]):
            thing = getattr(module, name)
            assert inspect.getdoc(thing), name
            if inspect.isclass(thing):
                for attribute, value in vars(thing).items():
                    if not attribute.startswith("_") and inspect.isfunction(value):
                        assert inspect.getdoc(value), f"{name}.{attribute}"


def test_options_stand_in_the_readme() -> None:
    for kind in (sabir.Client, sabir.Server, sabir.aio.Server):
        for name, parameter in inspect.signature(kind).parameters.items():
            rows = [line for line in README.splitlines() if line.startswith("|")]
            row = next(line for line in rows if f"`{name}`" in line or f"`{kind.__name__}({name}, …)`" in line)
            if isinstance(parameter.default, int | float) and not isinstance(parameter.default, bool):
                assert re.search(rf"`{parameter.default:_}`", row), (name, row)
    for cls in sabir.errors.TABLE.values():
        assert f"`{cls.__name__}`" in README or cls is sabir.ParseError  # stands in dead letters only


@pytest.fixture(scope="module")
def own_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("readme")) as url:
        yield url


def checked(block: str, url: str) -> str:
    """An example, with each `expression  # → value` made an assertion."""
    text = block.replace("redis://127.0.0.1:6379/0", url)
    return re.sub(r"^(\S.*?) +# → (.+)$", r"_seen = \1; assert repr(_seen) == repr(\2), _seen", text, flags=re.M)


def start(arguments: list[str], **environment: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
    return subprocess.Popen([sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, text=True)


def test_the_readme_is_true(own_url: str, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python(?: (\S+))?\n(.*?)^```$", README, re.M | re.S)
    assert len(blocks) == 6
    assert README.count("# →") == sum(block.count("# →") for _, block in blocks) == 10
    (tmp_path / blocks[0][0]).write_text(checked(blocks[0][1], own_url))
    worker = start([str(tmp_path / blocks[0][0])])
    try:
        for _, block in blocks[1:]:
            scope: dict[str, Any] = {"__name__": "readme"}
            exec(compile(checked(block, own_url), "README.md", "exec"), scope)
            if isinstance(scope.get("client"), sabir.Client):
                assert 29 < scope["client"].call("calc", "patience") <= 30
                scope["client"].close()
        worker.terminate()
        assert worker.wait(5) == 0
    finally:
        worker.kill()
        worker.communicate()


def test_a_copied_folder_works(url: str, namespace: str, tmp_path: Path) -> None:
    """Alone, in an empty directory, from there; and it is typed."""
    shutil.copytree(SOURCE, tmp_path / "sabir", ignore=shutil.ignore_patterns("__pycache__"))
    assert (tmp_path / "sabir" / "py.typed").exists()
    script = """
import sys, pathlib, sabir, sabir.aio, sabir.testing
assert pathlib.Path(sabir.__file__).parent == pathlib.Path.cwd() / "sabir", sabir.__file__
url, namespace = sys.argv[1:]
server = sabir.Server("calc", url, namespace=namespace)
server.register("add", lambda a, b: a + b)
with server, sabir.Client(url, namespace=namespace) as client:
    print(client.service("calc").add(1, 2))
"""
    (tmp_path / "try.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-W", "error", "try.py", url, namespace]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


# ---------------------------------------------------------------------------------------------------- examples


@pytest.mark.parametrize("name", ["worker", "async_worker"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_an_example_worker_stops_in_good_order(
    url: str, namespace: str, peer: Peer, name: str, number: signal.Signals
) -> None:
    """SABIR-STOP-2: a signal while a take is blocked and a handler runs."""
    worker = start([str(PYTHON / f"examples/{name}.py")], REDIS_URL=url, SABIR_NAMESPACE=namespace)
    try:
        assert worker.stdout is not None
        word, service, id = worker.stdout.readline().split()
        assert (word, service) == ("ready", "calc")
        assert peer.raw.zscore(peer.leases, id)
        peer.push(peer.element("sleep_ms", [150]), peer.element("whoami"))
        assert peer.reply()["body"]["result"] == {"language": "python", "worker": id}
        assert len(peer.hand(id)) == 1
        worker.send_signal(number)
        eventually(lambda: peer.raw.llen(peer.reply_key))
        assert peer.reply()["body"]["result"] == 150
        assert worker.wait(5) == 0
        assert not peer.raw.exists(peer.leases)
        assert not peer.hand(id)
    finally:
        worker.kill()
        worker.communicate()


def test_the_example_clients(url: str, namespace: str) -> None:
    worker = start([str(PYTHON / "examples/worker.py")], REDIS_URL=url, SABIR_NAMESPACE=namespace)
    environment = {**os.environ, "REDIS_URL": url, "SABIR_NAMESPACE": namespace}
    try:
        assert worker.stdout is not None
        assert worker.stdout.readline().startswith("ready calc ")
        tour, demo, unserved = (
            subprocess.run(
                [sys.executable, str(PYTHON / "examples" / name), *services],
                env=environment, capture_output=True, text=True, timeout=20, check=False,
            )
            for name, services in (("client.py", ["calc"]), ("demo.py", ["calc"]), ("demo.py", []))
        )  # fmt: skip
        assert (tour.returncode, tour.stderr) == (0, "")
        assert "DivisionByZero" in tour.stdout
        assert demo.returncode == 0, demo.stdout
        lines = [json.loads(line) for line in demo.stdout.splitlines()]
        assert [line["check"] for line in lines] == [
            "positional", "named", "unicode", "nested", "numbers", "application_error", "unknown_method", "notification",
            "latency",
        ]  # fmt: skip
        for line in lines:
            assert list(line) == ["service", "check", "ok", "ms", "detail"]
            assert (line["service"], line["ok"], type(line["ms"])) == ("calc", True, float)
        assert unserved.returncode == 1
        worker.terminate()
        assert worker.wait(5) == 0
    finally:
        worker.kill()
        worker.communicate()
