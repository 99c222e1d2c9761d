"""The register of methods and the check of parameters; the doubles for users' own tests."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from typing import Any

import pytest

import sabir
import sabir.aio
from sabir import testing
from sabir.dispatch import Methods, Signature


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def up(self, by: int = 1) -> int:
        self.count += by
        return self.count

    def secret(self) -> None:
        raise AssertionError


def f_plain(a: int, b: int) -> None: ...
def f_default(a: int, b: int = 2) -> None: ...
def f_args(a: int, *rest: int) -> None: ...
def f_kwargs(a: int, **rest: int) -> None: ...
def f_keyword(a: int, *, b: int) -> None: ...
def f_keyword_default(a: int, *, b: int = 2) -> None: ...
def f_positional(a: int, /, b: int) -> None: ...
def f_positional_default(a: int = 1, /, b: int = 2) -> None: ...
def f_positional_kwargs(a: int = 1, /, **rest: int) -> None: ...
def f_none() -> None: ...


HANDLERS = [
    f_plain, f_default, f_args, f_kwargs, f_keyword, f_keyword_default, f_positional, f_positional_default,
    f_positional_kwargs, f_none, Counter().up, functools.partial(f_plain, 1), functools.partial(f_plain, a=1),
    functools.partial(f_default, b=3), lambda *a, **k: None, Counter, functools.lru_cache(f_plain),
]  # fmt: skip


@pytest.mark.parametrize(
    "params",
    [None, [], [1], [1, 2], [1, 2, 3], {}, {"a": 1}, {"a": 1, "b": 2}, {"b": 2}, {"a": 1, "b": 2, "c": 3}, {"by": 2}],
    ids=str,
)
@pytest.mark.parametrize("handler", HANDLERS, ids=lambda h: getattr(h, "__name__", repr(h)[:30]))
def test_what_fits_is_what_python_says(handler: Any, params: Any) -> None:
    """SABIR-BODY-4: what fits is what can be called."""
    try:
        handler(**params) if isinstance(params, dict) else handler(*(params or ()))
        fits = True
    except TypeError:
        fits = False
    fault = Signature(handler).fault(params)
    assert (fault is None) == fits, fault


def test_registering() -> None:
    """SABIR-BODY-3."""
    methods = Methods()

    @methods.method
    def add(a: int, b: int) -> int:
        return a + b

    @methods.method(name="a/b")
    def other() -> None: ...

    assert add(1, 2) == 3
    counter = Counter()
    methods.expose(counter, ["up"])
    for name in ("add", "a/b", "up"):
        assert methods.find(name) is not None
    for name in ("other", "secret", "__class__", "register", "find"):
        assert methods.find(name) is None
    for name, handler, error in (
        ("add", add, ValueError),
        ("a b", add, ValueError),
        ("", add, ValueError),
        ("rpc.ping", add, ValueError),
        ("x", 1, TypeError),
        ("x", max, TypeError),
    ):
        with pytest.raises(error):
            methods.register(name, handler)
    with pytest.raises(AttributeError):
        methods.expose(counter, ["down"])


class TooPoor(sabir.ApplicationError):
    code = 1001


def build(kind: Any) -> Any:
    server = kind("calc", traces=True)
    server.register("add", lambda a, b: a + b)
    server.register("context", lambda: [sabir.context().caller, sabir.context().time_left() > 0])
    server.register("odd", lambda: {1})
    server.register("exit", lambda: exit(1))

    @server.method
    def poor() -> None:
        raise TooPoor("no", data=[1])

    return server


@pytest.mark.parametrize("kind", [sabir.Server, sabir.aio.Server], ids=["blocking", "asyncio"])
def test_in_process(kind: Any) -> None:
    """The same checks and errors as through Redis."""
    server = build(kind)
    if kind is sabir.aio.Server:

        @server.method
        async def later() -> str | None:
            await asyncio.sleep(0)
            return sabir.context().method

    with testing.InProcessClient(server, errors=[TooPoor]) as client:
        calc = client.service("calc")
        assert (calc.add(1, 2), calc.add(a=1, b=2)) == (3, 3)
        assert calc.context() == ["in-process", True]
        for method, error in (
            ("poor", TooPoor), ("odd", sabir.InvalidResult), ("exit", sabir.InternalError), ("none", sabir.MethodNotFound),
        ):  # fmt: skip
            with pytest.raises(error):
                client.call("calc", method)
        with pytest.raises(sabir.InvalidParams):
            calc.add(1)
        with pytest.raises(sabir.InternalError) as caught:
            calc.add(1, "x")
        assert "trace" in caught.value.data
        if kind is sabir.aio.Server:
            assert calc.later() == "later"
        assert client.many("calc", [("add", [1, n]) for n in range(3)]) == [1, 2, 3]
        assert client.retry("calc", "add", [1, 2], 1) == 3
        client.wait_for_service("calc")
        with pytest.raises(sabir.ServiceUnavailable):
            client.wait_for_service("other")
        assert type(client.many("calc", [("poor",)])[0]) is TooPoor
        assert len(client.notify("calc", "add", [1, 2])) == 32
        assert client.dead == []
        client.notify("calc", "add", [1])
        assert json.loads(client.dead[0])["error"]["code"] == -32602
        with pytest.raises(sabir.ServiceUnavailable):
            client.call("other", "add")
        for act in (
            lambda: client.call("a b", "add"),
            lambda: client.call("calc", "add", None, 0),
            lambda: client.notify("calc", "add", expires=-1),
            lambda: client.notify("calc", "add", timeout=0),
            lambda: client.service("a.b"),
        ):
            with pytest.raises(ValueError, match="expected"):
                act()
        with pytest.raises(sabir.LimitExceeded):
            calc.add("x" * 1_048_577, 1)


def test_in_process_for_asyncio() -> None:
    server = build(sabir.aio.Server)

    @server.method
    async def twice(n: int) -> Any:
        return await client.service("calc").add(n, n)

    client = testing.AsyncInProcessClient(server, errors=[TooPoor])

    async def main() -> None:
        async with client:
            calc = client.service("calc")
            assert await calc.twice(2) == 4
            with pytest.raises(TooPoor):
                await calc.poor()
            assert await client.many("calc", [("add", [1, 2]), ("add", [2, 3])]) == [3, 5]
            assert await client.retry("calc", "add", [1, 2], 1) == 3
            await client.wait_for_service("calc")
            await client.notify("calc", "none")
            assert len(client.dead) == 1

    asyncio.run(main())


def test_proxies_have_no_traps() -> None:
    """Every name is a remote method but Python's own; nothing awaits, copies or compares by a call."""

    def call(*_: Any) -> None:
        raise AssertionError("a call was made")

    for kind in (sabir.Service, sabir.aio.Service):
        service = kind(call)
        for name in ("__len__", "__await__", "__iter__", "__fspath__", "__deepcopy__", "__array__"):
            assert not hasattr(service, name)
        assert "Service" in repr(service)
        assert callable(service.then)
        assert callable(service._private)
        assert service == service
        assert {service: 1}[service] == 1


def test_logs_name_the_request_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    """SABIR-SECURITY-1: no parameters, no results, no texts, unless debugging is asked for."""
    server = sabir.Server("calc")
    server.register("fail", lambda secret: {}[secret])
    client = testing.InProcessClient(server)
    with caplog.at_level(logging.INFO), pytest.raises(sabir.InternalError):
        client.call("calc", "fail", ["hunter2"])
    assert len(caplog.records) == 1
    assert "fail" in caplog.text
    assert "KeyError" in caplog.text
    assert "hunter2" not in caplog.text
    caplog.clear()
    with caplog.at_level(logging.DEBUG, "sabir"), pytest.raises(sabir.InternalError):
        client.call("calc", "fail", ["hunter2"])
    assert "Traceback" in caplog.text
