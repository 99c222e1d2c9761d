"""The life of a worker: what it takes, what it refuses, how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from typing import Any

import jsonschema_rs
import pytest
from support import PROTOCOL, Blocking, Peer, eventually

import sabir
import sabir.aio
from sabir import CallTimeout, InternalError


def sleeper(shell: Blocking, server: Any) -> tuple[list[Any], threading.Event]:
    """Register `hold`, which runs until the event is set, and `quick`."""
    ran: list[Any] = []
    go = threading.Event()

    def hold(n: int) -> int:
        ran.append(n)
        go.wait(10)
        return n

    async def hold_async(n: int) -> int:
        ran.append(n)
        while not go.is_set():
            await asyncio.sleep(0.002)
        return n

    server.register("hold", hold_async if shell.name == "asyncio" else hold)
    server.register("quick", lambda: "quick")
    return ran, go


def test_bad_input_never_kills_a_worker(shell: Blocking, peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    """SABIR-WORKER-5, SABIR-DEAD-1, SABIR-BODY-1, SABIR-SECURITY-1."""
    server = shell.server(at_once=1)
    sleeper(shell, server)
    bad = [
        b"",
        b"secret",
        b"\xff\xfe",
        b"null",
        b"[" * 100_000,
        b'{"v":007,"id":"' + b"0" * 32 + b'","reply_to":"a.b","body":' + b"[" * 65,  # a head that is no JSON
        b"[" * 65 + b'"' + b'\\"' * 400_000,  # a text without an end, slow to read for a careless expression
        peer.element("quick", call=False, v=2),
        peer.element("quick", reply_to="a.b.c"),
        b" " * 1_048_577,
    ]
    peer.push(*bad, peer.element("quick", v=2), peer.element("quick", secret=1, v=0), peer.element("quick"))
    server.start()
    assert [peer.reply()["body"]["error"]["code"] for _ in range(2)] == [-32006, -32600]
    assert peer.reply()["body"]["result"] == "quick"
    letters = peer.letters()
    expected = [-32700, -32700, -32700, -32600, -32007, -32007, -32007, -32006, -32600, -32007]
    assert [letter["error"]["code"] for letter in letters] == expected
    assert not peer.hand(server.worker)
    schemas = [json.loads(path.read_text()) for path in (PROTOCOL / "schemas").glob("*.json")]
    registry = jsonschema_rs.Registry([(schema["$id"], schema) for schema in schemas])
    dead = next(schema for schema in schemas if "dead-letter" in schema["$id"])
    valid = jsonschema_rs.validator_for(dead, registry=registry)
    for letter, element in zip(letters, bad, strict=True):
        assert valid.is_valid(letter)
        assert letter["worker"] == server.worker
        if "element" in letter:
            assert letter["element"].encode() == element
    refused = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(refused) == len(bad) + 2
    assert "secret" not in caplog.text


def test_dead_letters_are_bounded(shell: Blocking, peer: Peer) -> None:
    """SABIR-DEAD-3."""
    peer.raw.rpush(peer.dead, *(f"old {n}" for n in range(1000)))
    peer.push(b"new")
    shell.server().start()
    eventually(lambda: not peer.raw.exists(peer.requests) and peer.raw.lindex(peer.dead, 0) == b"old 1")
    assert peer.raw.llen(peer.dead) == 1000
    assert json.loads(peer.raw.lindex(peer.dead, -1))["element"] == "new"


def test_limits_can_be_set(shell: Blocking, peer: Peer) -> None:
    """SABIR-LIMIT-2, SABIR-LIMIT-4: an error is sent, whatever the limit."""
    server = shell.server(at_once=1, max_bytes=250, max_depth=4)
    server.register("echo", lambda value: value)
    server.register("fail", lambda: 1 / 0)
    server.register("large", lambda: "x" * 200)
    server.start()
    peer.push(peer.element("echo", [[1]]), peer.element("echo", [[[1]]]), peer.element("echo", ["x" * 200]))
    peer.push(peer.element("large"), peer.element("fail"))
    answers = [peer.reply()["body"] for _ in range(5)]
    assert answers[0]["result"] == [1]
    assert [answer["error"]["code"] for answer in answers[1:]] == [-32007, -32007, -32008, -32603]


def test_it_takes_what_it_has_room_for(shell: Blocking, peer: Peer) -> None:
    """SABIR-WORKER-3; and it runs as many at once."""
    server = shell.server(at_once=2)
    ran, go = sleeper(shell, server)
    peer.push(*(peer.element("hold", [n]) for n in range(5)))
    server.start()
    eventually(lambda: len(ran) == 2)
    time.sleep(0.05)
    assert len(peer.hand(server.worker)) == 2
    assert peer.raw.llen(peer.requests) == 3
    go.set()
    assert sorted(peer.reply()["body"]["result"] for _ in range(5)) == [0, 1, 2, 3, 4]
    assert peer.raw.zscore(peer.leases, server.worker)


def test_stop_is_prompt_when_idle(shell: Blocking, peer: Peer) -> None:
    """SABIR-STOP-4; a take that Redis holds blocked is ended."""
    server = shell.server()
    sleeper(shell, server)
    server.start()
    server.wait_ready(5)
    eventually(lambda: peer.raw.info("clients")["blocked_clients"] >= 1)
    begin = time.monotonic()
    assert server.stop(5)
    assert time.monotonic() - begin < 0.5
    assert not peer.raw.exists(peer.leases)
    assert server.stop(5)  # again: nothing


def test_stop_finishes_what_it_has_started(shell: Blocking, peer: Peer) -> None:
    """SABIR-STOP-1, SABIR-STOP-2, SABIR-LEASE-1."""
    server = shell.server(at_once=2)
    ran, go = sleeper(shell, server)
    server.start()
    peer.push(peer.element("hold", [1]))
    eventually(lambda: ran)
    stopped: list[Any] = []
    thread = threading.Thread(target=lambda: stopped.append(server.stop(5)))
    thread.start()
    eventually(getattr(server, "target", server)._stopping.is_set)
    peer.push(peer.element("quick"))
    time.sleep(0.1)
    assert thread.is_alive()
    assert peer.raw.zscore(peer.leases, server.worker)
    go.set()
    thread.join()
    assert stopped == [True]
    assert peer.reply()["body"]["result"] == 1
    assert peer.raw.llen(peer.requests) == 1
    assert not peer.hand(server.worker)
    assert not peer.raw.exists(peer.leases)


def test_stop_does_not_wait_for_ever(shell: Blocking, peer: Peer) -> None:
    """What still runs stays in the hand, and the lease stays with it (SABIR-STOP-4)."""
    server = shell.server(at_once=2)
    ran, go = sleeper(shell, server)
    server.start()
    peer.push(peer.element("hold", [1]))
    eventually(lambda: ran)
    assert not server.stop(0.1)
    assert len(peer.hand(server.worker)) == 1
    assert peer.raw.zscore(peer.leases, server.worker)
    go.set()


def test_an_element_just_taken_is_given_back(shell: Blocking, peer: Peer) -> None:
    """SABIR-STOP-3."""
    server = shell.server()
    ran, _ = sleeper(shell, server)
    server.start()
    server.wait_ready(5)
    eventually(lambda: peer.raw.info("clients")["blocked_clients"] >= 1)
    stopping = getattr(server, "target", server)._stopping
    if shell.name == "asyncio":
        shell.loop.call_soon_threadsafe(stopping.set)  # type: ignore[attr-defined]
        eventually(stopping.is_set)
    else:
        stopping.set()
    first, second = peer.element("hold", [1]), peer.element("hold", [2])
    peer.push(first, second)
    assert server.stop(5)
    assert peer.raw.lrange(peer.requests, 0, -1) == [first, second]
    assert ran == []
    assert not peer.raw.exists(peer.leases)


def test_a_server_starts_once(shell: Blocking) -> None:
    server = shell.server()
    server.start()
    with pytest.raises(RuntimeError, match="starts once"):
        server.start()


def test_each_start_is_a_worker_of_its_own() -> None:
    """SABIR-WORKER-1."""
    ids = {sabir.Server("calc", name="w").worker for _ in range(10)}
    assert len(ids) == 10
    assert all(len(id) == len("w.") + 16 for id in ids)
    long = sabir.Server("s" * 128).worker
    assert sabir.keys.is_token(long)


def test_equal_elements_are_counted(shell: Blocking, peer: Peer) -> None:
    server = shell.server(at_once=4)
    ran, go = sleeper(shell, server)
    element = peer.element("hold", [1])
    peer.push(element, element, element)
    server.start()
    eventually(lambda: len(ran) == 3)
    go.set()
    assert [peer.reply()["body"]["result"] for _ in range(3)] == [1, 1, 1]
    eventually(lambda: not peer.hand(server.worker))
    assert server.stop(5)


def test_two_workers_share_one_queue(shell: Blocking, peer: Peer) -> None:
    servers = [shell.server(at_once=1) for _ in range(2)]
    for server in servers:
        server.register("who", lambda: (time.sleep(0.005), sabir.context().worker)[1])
        server.start()
        server.wait_ready(5)
    results = shell.client().many("calc", [("who",)] * 20)
    assert set(results) == {server.worker for server in servers}


def test_an_asyncio_handler_that_cancels_itself(url: str, namespace: str) -> None:
    async def main() -> None:
        server = sabir.aio.Server("calc", url, namespace=namespace)

        @server.method
        async def cancel() -> None:
            raise asyncio.CancelledError

        async with server, sabir.aio.Client(url, namespace=namespace) as client:
            with pytest.raises(InternalError, match="CancelledError"):
                await client.call("calc", "cancel", None, 5)

    asyncio.run(main())


def test_a_cancelled_run_stops_in_good_order(url: str, namespace: str, peer: Peer) -> None:
    """SABIR-STOP-2, SABIR-STOP-4."""

    async def main() -> None:
        server = sabir.aio.Server("calc", url, namespace=namespace)
        started = asyncio.Event()

        @server.method
        async def slow() -> str:
            started.set()
            await asyncio.sleep(0.1)
            return "done"

        run = asyncio.create_task(server.run())
        peer.push(peer.element("slow"))
        await started.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert peer.reply()["body"]["result"] == "done"
        assert not peer.raw.exists(peer.leases)

    asyncio.run(main())


def test_cancelling_a_call_harms_no_other(url: str, namespace: str, peer: Peer) -> None:
    peer.serves()

    async def main() -> None:
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with sabir.aio.Client(url, namespace=namespace) as client:
            for delay in (0.0, 0.0005, 0.002, 0.02):
                task = asyncio.create_task(client.call("calc", "a", None, 5))
                await asyncio.sleep(delay)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            peer.raw.delete(peer.requests)
            call = asyncio.create_task(client.call("calc", "a", None, 5))
            request = await asyncio.to_thread(peer.take)
            peer.answer(request, 3)
            assert await call == 3
            with contextlib.suppress(CallTimeout):
                await client.call("calc", "a", None, 0.01)
            waiting = asyncio.create_task(client.call("calc", "a", None, 0.2))
            await asyncio.sleep(0.01)
        with pytest.raises(CallTimeout):  # the client was closed under it
            await waiting
        assert complaints == []

    asyncio.run(main())


def test_the_asyncio_client_connects_many_at_once(url: str, namespace: str) -> None:
    """Calls of one loop turn leave in one RPUSH, to one reader (SABIR-CALL-1)."""

    async def main() -> None:
        server = sabir.aio.Server("calc", url, namespace=namespace)
        server.register("add", lambda a, b: a + b)
        async with server, sabir.aio.Client(url, namespace=namespace) as client:
            calc = client.service("calc")
            assert await asyncio.gather(*(calc.add(n, n) for n in range(300))) == [2 * n for n in range(300)]

    asyncio.run(main())
