"""Profile `reliable`: nobody serves, the queue is full, workers are lost, handlers hang."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from support import Asyncio, Blocking, Peer, Proxy, eventually, redis_server

import sabir
import sabir.aio
import sabir.aio.client
import sabir.aio.server
import sabir.client
import sabir.server
from sabir import (
    CallTimeout,
    ConnectionLost,
    InternalError,
    NotQueued,
    Overloaded,
    ServiceUnavailable,
    WorkerLost,
    commands,
    errors,
    keys,
)
from sabir.client import Retries, judged
from sabir.server import Lease, Paces, Taken, beaten

LOST = WorkerLost.code


def patch(monkeypatch: pytest.MonkeyPatch, **constants: float) -> None:
    """Give the shells other constants."""
    for name, value in constants.items():
        for module in (sabir.client, sabir.aio.client, sabir.server, sabir.aio.server, sabir.commands):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)


@pytest.fixture
def asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiting client asks every 50 ms whether anybody serves."""
    patch(monkeypatch, ASK=0.05)


@pytest.fixture
def beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats every 20 ms, and the right to recover after 100 ms."""
    patch(monkeypatch, HEARTBEAT_MS=20, LEASE=0.1)


def serve(shell: Blocking, **options: Any) -> tuple[Any, list[Any]]:
    """A worker with `run`, which notes what it got and which delivery it is."""
    ran: list[Any] = []
    server = shell.server(**options)

    def run(value: Any = None) -> int:
        ran.append(value)
        return sabir.context().attempt

    server.register("run", run)
    server.start()
    assert server.wait_ready(5)
    return server, ran


# ---------------------------------------------------------------------------------------------------- nobody serves


def test_a_call_that_nobody_serves_fails_at_once(shell: Blocking, peer: Peer) -> None:
    """SABIR-ALIVE-1, SABIR-ALIVE-2."""
    client = shell.client()
    for _ in range(2):
        begin = time.monotonic()
        with pytest.raises(ServiceUnavailable, match="no worker serves calc") as caught:
            client.call("calc", "run", None, 5)
        assert time.monotonic() - begin < 0.1
        assert (caught.value.outcome, caught.value.retryable) == ("never started", True)
    assert {type(one) for one in client.many("calc", [("run",)] * 3, 5)} == {ServiceUnavailable}
    assert not peer.raw.exists(peer.requests)


def test_the_last_worker_takes_alive_along(shell: Blocking, peer: Peer) -> None:
    """SABIR-STOP-5, SABIR-ALIVE-2: also where the wait was sent along, as somebody served a moment ago."""
    client = shell.client()
    for _ in range(2):
        server, _ = serve(shell)
        assert client.call("calc", "run", [1], 5) == 1
        assert server.stop(5)
        with pytest.raises(ServiceUnavailable):
            client.call("calc", "run", [1], 5)
    first, second = serve(shell)[0], serve(shell)[0]
    assert first.stop(5)
    assert client.call("calc", "run", [1], 5) == 1
    assert second.stop(5)
    assert not peer.raw.keys(f"{peer.prefix}[^r]*")


def test_what_a_worker_has_is_waited_for(shell: Blocking, peer: Peer) -> None:
    """SABIR-ALIVE-2: a take-back that finds nothing."""
    client = shell.client()

    def play() -> None:
        taken = [json.loads(peer.raw.blpop(peer.requests, 5)[1]) for _ in range(1)]
        for request in taken:
            peer.answer(request, "had")

    def call() -> Any:
        eventually(lambda: peer.raw.info("clients")["blocked_clients"] >= 1)
        return client.many("calc", [("run",), ("run",)], 5)

    results = shell.together(call, play)[0]
    assert [results[0], type(results[1])] == ["had", ServiceUnavailable]
    assert not peer.raw.exists(peer.requests)


def test_an_idempotent_call_that_was_delivered_before(shell: Blocking, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """SABIR-ALIVE-2: this client may have been paused between its RPUSH and its take-back."""
    take_back = commands.take_back

    def delivered(of: keys.Keys, element: bytes, id: str | None = None) -> commands.Commands:
        assert id is not None
        peer.raw.set(of.attempts(id), 1, px=5000)
        return take_back(of, element, id)

    monkeypatch.setattr(commands, "take_back", delivered)
    with pytest.raises(WorkerLost):
        shell.client().call("calc", "run", None, 5, idempotent=True)


def test_a_notification_stays(shell: Blocking, peer: Peer) -> None:
    """SABIR-ALIVE-7."""
    shell.client().notify("calc", "run", [1])
    assert peer.raw.llen(peer.requests) == 1
    _, ran = serve(shell)
    eventually(lambda: ran == [1])


def test_a_lost_take_back(shell: Blocking, peer: Peer, proxy: Proxy) -> None:
    """SABIR-ALIVE-6."""
    client = shell.client(proxy.url)
    proxy.cut(b"LREM")
    begin = time.monotonic()
    with pytest.raises(ConnectionLost):
        client.call("calc", "run", None, 5)
    assert time.monotonic() - begin < 1
    peer.serves()
    with pytest.raises(CallTimeout):
        client.call("calc", "run", None, 0.1)


# ---------------------------------------------------------------------------------------------------- the bound


def test_a_queue_over_its_bound(shell: Blocking, peer: Peer) -> None:
    """SABIR-QUEUE-1: calls and notifications are taken back, nobody else's."""
    peer.push(b"a", b"b")
    peer.serves()
    client = shell.client(max_queue=3)
    client.notify("calc", "run")
    for act in (
        lambda: client.call("calc", "run", None, 5),
        lambda: client.call("calc", "run", None, 5, idempotent=True),
        lambda: client.notify("calc", "run"),
        lambda: client.notify("calc", "run", idempotent=True),
    ):
        with pytest.raises(Overloaded, match="the queue of calc is longer than 3") as caught:
            act()
        assert (caught.value.outcome, caught.value.retryable) == ("never started", True)
    peer.raw.delete(peer.alive)
    assert [type(one) for one in client.many("calc", [("run",)] * 3, 5)] == [Overloaded] * 3
    assert peer.raw.lrange(peer.requests, 0, 1) == [b"a", b"b"]
    assert peer.raw.llen(peer.requests) == 3
    peer.raw.delete(peer.requests)
    peer.push(*[b"x"] * 10)
    shell.client(max_queue=None).notify("calc", "run")
    assert peer.raw.llen(peer.requests) == 11


def test_over_the_bound_and_taken(shell: Blocking, peer: Peer) -> None:
    """SABIR-QUEUE-1: what a worker has already is waited for."""
    client = shell.client(max_queue=1)
    peer.serves()
    assert shell.together(lambda: client.call("calc", "a", None, 5), lambda: peer.answer(peer.take(), 1))[0] == 1

    def play() -> None:
        peer.answer(peer.take(), "had")

    def call() -> Any:
        eventually(lambda: peer.raw.info("clients")["blocked_clients"] >= 1)
        return client.many("calc", [("run",)] * 3, 5)

    results = shell.together(call, play)[0]
    assert results[0] == "had"
    assert [type(result) for result in results[1:]] == [Overloaded] * 2
    assert not peer.raw.exists(peer.requests)


@pytest.mark.parametrize("bad", [0, -1, True, 1.5, "1"])
def test_a_bound_is_an_integer(shell: Blocking, bad: Any) -> None:
    with pytest.raises(ValueError, match="max_queue: expected an integer > 0 or None"):
        shell.Client(max_queue=bad)


# ---------------------------------------------------------------------------------------------------- while it waits


def while_waiting(
    shell: Blocking, peer: Peer, act: Any = None, timeout: float = 5, client: Any = None, **options: Any
) -> Any:
    """Call while somebody serves, then act and let alive vanish. Returns how the call ended, and how long that took."""
    client = client or shell.client()
    peer.serves()

    def play() -> float:
        eventually(lambda: peer.raw.llen(peer.requests))
        if act is not None:
            act()
        peer.raw.delete(peer.alive)
        return time.monotonic()

    def call() -> tuple[Any, float]:
        try:
            return client.call("calc", "run", None, timeout, **options), time.monotonic()
        except sabir.SabirError as error:
            return error, time.monotonic()

    (ended, at), vanished = shell.together(call, play)
    return ended, at - vanished


@pytest.mark.usefixtures("asks")
def test_nobody_serves_any_more(shell: Blocking, peer: Peer) -> None:
    """SABIR-ALIVE-3, SABIR-ALIVE-4."""
    for options in ({}, {"idempotent": True}):
        error, took = while_waiting(shell, peer, **options)
        assert (type(error), took < 1) == (ServiceUnavailable, True)
        assert not peer.raw.exists(peer.requests)
        error, took = while_waiting(shell, peer, lambda: peer.raw.lpop(peer.requests), **options)
        assert (type(error), took < 1) == (WorkerLost, True)


@pytest.mark.usefixtures("asks")
def test_it_was_delivered_before(shell: Blocking, peer: Peer) -> None:
    """SABIR-ALIVE-4: back in the queue after a lost delivery."""

    def deliver() -> None:
        id = json.loads(peer.raw.lindex(peer.requests, 0))["id"]
        peer.raw.set(f"{peer.prefix}attempts:{id}", 1, px=5000)

    assert type(while_waiting(shell, peer, deliver, idempotent=True)[0]) is WorkerLost
    assert not peer.raw.exists(peer.requests)


@pytest.mark.usefixtures("asks")
def test_a_queue_too_long_to_be_searched(shell: Blocking, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """SABIR-ALIVE-4."""
    monkeypatch.setattr(commands, "SEARCHED", 3)
    assert type(while_waiting(shell, peer, lambda: peer.push(b"a", b"b", b"c"))[0]) is WorkerLost
    assert peer.raw.llen(peer.requests) == 4


@pytest.mark.usefixtures("asks")
@pytest.mark.parametrize("when", ["before the look", "before the judgement"])
def test_alive_comes_back(shell: Blocking, peer: Peer, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """SABIR-ALIVE-4: then the client waits on."""
    name = "look_alive" if when == "before the look" else "judge"
    original = getattr(commands, name)
    returned = threading.Event()

    def back(*args: Any) -> commands.Commands:
        peer.serves()
        returned.set()
        return original(*args)

    monkeypatch.setattr(commands, name, back)

    def play() -> None:
        assert returned.wait(5)
        peer.answer(peer.take(), "fine")

    ended, _ = shell.together(lambda: while_waiting(shell, peer), play)[0]
    assert ended == "fine"


@pytest.mark.usefixtures("asks")
def test_many_calls_are_judged_together(shell: Blocking, peer: Peer) -> None:
    """SABIR-ALIVE-4: some have been answered, one was taken, one is still in the queue."""
    client = shell.client()
    peer.serves()

    def play() -> None:
        first, _taken = peer.take(), peer.take()
        peer.answer(first, "fine")
        peer.raw.delete(peer.alive)

    results = shell.together(lambda: client.many("calc", [("a",), ("b",), ("c",)], 5), play)[0]
    assert results[0] == "fine"
    assert [type(result) for result in results[1:]] == [WorkerLost, ServiceUnavailable]
    assert not peer.raw.exists(peer.requests)
    client.close()
    eventually(lambda: not peer.raw.keys(f"{peer.prefix}reply:*"))


@pytest.mark.usefixtures("asks")
def test_a_lost_judgement(shell: Blocking, peer: Peer, proxy: Proxy) -> None:
    """SABIR-ALIVE-6."""
    client = shell.client(proxy.url)
    proxy.cut(b"MULTI")
    error, took = while_waiting(shell, peer, client=client)
    assert type(error) is ConnectionLost
    assert took < 1


@pytest.mark.usefixtures("asks")
def test_nothing_is_judged_after_an_interruption(
    shell: Blocking, peer: Peer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SABIR-ALIVE-5."""
    patch(monkeypatch, CALM=0.5)

    def interrupt() -> None:
        time.sleep(0.02)  # the wait is under way
        proxy.refuse()
        proxy.refuse(False)

    error, took = while_waiting(shell, peer, interrupt, client=shell.client(proxy.url))
    assert type(error) is ServiceUnavailable
    assert 0.45 < took < 2


def test_a_reply_is_not_lost_with_the_connection(shell: Blocking, peer: Peer, proxy: Proxy) -> None:
    """SABIR-WAIT-1: Redis has answered the look, and the answer did not arrive."""
    client = shell.client(proxy.url)
    peer.serves()
    proxy.cut(b"BLMOVE")
    assert shell.together(lambda: client.call("calc", "a", None, 5), lambda: peer.answer(peer.take(), "fine"))[0] == "fine"
    assert proxy.acted.is_set()
    client.close()


def test_a_look_keeps_the_expiry(peer: Peer) -> None:
    """SABIR-WAIT-1: whether the list was there, or the look was blocked."""
    of = keys.Keys(peer.prefix.partition(":")[0], "calc")
    look = commands.wait(of, peer.token, 5000)[0]
    for wait in (0.0, 0.05):
        pushing = threading.Timer(
            wait, lambda: peer.raw.pipeline().rpush(peer.reply_key, "r").pexpire(peer.reply_key, 60_000).execute()
        )
        pushing.start()
        if not wait:
            pushing.join()
        assert peer.raw.execute_command(*look) == b"r"
        assert 59_000 < peer.raw.pttl(peer.reply_key) <= 60_000
        assert peer.raw.delete(peer.reply_key) == 1
        pushing.join()


@pytest.mark.parametrize("kill", [True, False], ids=["CLIENT KILL", "without CLIENT KILL"])
def test_many_replies_and_broken_connections(shell: Blocking, peer: Peer, proxy: Proxy, kill: bool) -> None:
    """SABIR-WAIT-1, SABIR-WAIT-2: whoever removes by position knows the position."""
    user = f"{shell.namespace.replace('.', '-')}-k"
    peer.raw.execute_command(
        "ACL", "SETUSER", user, "on", ">secret", "~*", "&*", "+@all", *([] if kill else ["-client|kill"])
    )
    try:
        client = shell.client(proxy.url.replace("//", f"//{user}:secret@"))
        peer.serves()
        calls = [lambda n=n: client.call("calc", "run", [n], 10) for n in range(40)]

        def play() -> None:
            for n in range(40):
                request = peer.take()
                peer.answer(request, request["body"]["params"][0])
                if n % 10 == 5:
                    proxy.cut(b"BLMOVE")

        results = shell.together(*calls, play)
        # A request whose RPUSH was cut off may be pushed or not, but every one that was taken is answered.
        assert [result for result in results[:40] if not isinstance(result, ConnectionLost)] == [
            n for n in range(40) if not isinstance(results[n], ConnectionLost)
        ]
        assert sum(isinstance(result, ConnectionLost) for result in results[:40]) == 0
        client.close()
        eventually(lambda: not peer.raw.keys(f"{peer.prefix}reply:*"))
    finally:
        peer.raw.execute_command("ACL", "DELUSER", user)


def test_a_removal_that_comes_late_takes_nothing_unread(
    url: str, namespace: str, peer: Peer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SABIR-WAIT-2: an old connection that can't be ended may remove what was read, and nothing else."""
    patch(monkeypatch, ASK=0.1, MARGIN=0.1)
    user = f"{namespace.replace('.', '-')}-k"
    peer.raw.execute_command("ACL", "SETUSER", user, "on", ">secret", "~*", "&*", "+@all", "-client|kill")
    peer.serves()

    async def main() -> list[Any]:
        async with sabir.aio.Client(proxy.url.replace("//", f"//{user}:secret@"), namespace=namespace) as client:
            calls = [asyncio.create_task(client.call("calc", "run", [n], 10)) for n in range(3)]
            requests = [await asyncio.to_thread(peer.take) for _ in calls]
            key = f"{peer.prefix}reply:{requests[0]['reply_to']}"
            proxy.swallow(b"LTRIM")
            peer.answer(requests[0], 0)
            await calls[0]
            assert await asyncio.to_thread(proxy.acted.wait, 5)
            peer.answer(requests[1], 1)
            await calls[1]
            with peer.raw.pipeline() as pipeline:  # the LTRIM arrives, before anybody has read the last reply
                last = Peer(pipeline, namespace)
                last.answer(requests[2], 2)
                pipeline.ltrim(key, 1, -1).execute()
            return [await call for call in calls]

    try:
        assert asyncio.run(main()) == [0, 1, 2]
        assert not peer.raw.keys(f"{peer.prefix}reply:*")
    finally:
        peer.raw.execute_command("ACL", "DELUSER", user)


def test_what_a_judgement_means() -> None:
    """SABIR-ALIVE-4."""
    of, ids = keys.Keys("sabir", "calc"), [f"{n:032x}" for n in range(5)]
    calls = [(id, b"e") for id in ids]
    reply = json.dumps(
        {"v": 1, "id": ids[3], "worker": "w.1", "body": {"jsonrpc": "2.0", "id": ids[3], "result": 3}}
    ).encode()

    def kinds(answers: list[Any]) -> list[Any]:
        ended = judged(of, calls, answers, {})
        return [type(ended[id].error) if ended[id].error else ended[id].result for id in ids]

    answers = [1, 0, 1, 1, 0, 0, 1, 0, redis.ResponseError("WRONGTYPE"), 0, [b"no JSON", reply]]
    assert kinds(answers) == [ServiceUnavailable, WorkerLost, WorkerLost, 3, WorkerLost]
    answers = [0, 0, 0, 0, redis.ResponseError("NOPERM"), [reply]]
    assert kinds(answers) == [WorkerLost, WorkerLost, WorkerLost, 3, WorkerLost]
    assert kinds([*[0] * 5, redis.ResponseError("WRONGTYPE")]) == [WorkerLost] * 5


# ---------------------------------------------------------------------------------------------------- again


def test_a_call_is_sent_again_until_somebody_serves(shell: Blocking, peer: Peer) -> None:
    """SABIR-RETRY-1."""
    client = shell.client()
    started: list[Any] = []
    later = threading.Timer(0.15, lambda: started.append(serve(shell)))
    later.start()
    assert client.retry("calc", "run", [1], 5) == 1
    later.join()
    begin = time.monotonic()
    started[0][0].stop(5)
    with pytest.raises(ServiceUnavailable):
        client.retry("calc", "run", [1], 0.3)
    assert 0.2 < time.monotonic() - begin < 1
    assert not peer.raw.exists(peer.requests)


def test_what_may_have_run_is_sent_again_only_if_that_does_no_harm(shell: Blocking, peer: Peer) -> None:
    """SABIR-RETRY-1: each time as a new request."""
    client = shell.client()
    peer.serves()
    ids: list[str] = []

    def play(count: int) -> None:
        for _ in range(count):
            request = peer.take()
            ids.append(request["id"])
            peer.answer(request, error={"code": LOST, "message": "lost"})

    def play_on() -> None:
        play(2)
        peer.answer(peer.take(), "fine")

    assert shell.together(lambda: client.retry("calc", "a", None, 5, idempotent=True), play_on)[0] == "fine"
    assert len(set(ids)) == 2
    assert type(shell.together(lambda: client.retry("calc", "a", None, 5), lambda: play(1))[0]) is WorkerLost

    def play_error() -> None:
        peer.answer(peer.take(), error={"code": 7, "message": "no"})

    got = shell.together(lambda: client.retry("calc", "a", None, 5, idempotent=True), play_error)[0]
    assert (type(got), got.code) == (sabir.ApplicationError, 7)
    assert not peer.raw.exists(peer.requests)


@pytest.mark.parametrize("kind", errors.TABLE.values(), ids=lambda kind: kind.__name__)
def test_which_errors_let_a_call_be_sent_again(kind: type[sabir.SabirError]) -> None:
    """SABIR-RETRY-1, by the table of errors."""
    for idempotent in (False, True):
        retries = Retries(5, idempotent)
        if kind.retryable or (idempotent and kind.outcome == "may have run"):
            pauses = [retries.pause(kind("x")) for _ in range(10)]
            assert 0.03 < pauses[0] <= 0.05
            assert max(pauses) <= 5
        else:
            with pytest.raises(kind):
                retries.pause(kind("x"))
    with pytest.raises(kind):
        Retries(0.001, True).pause(kind("x"))


def test_waiting_for_a_service(shell: Blocking, peer: Peer, proxy: Proxy) -> None:
    client = shell.client(proxy.url)
    with pytest.raises(ServiceUnavailable, match=r"no worker serves calc, for 0\.100 s"):
        client.wait_for_service("calc", 0.1)
    later = threading.Timer(0.1, peer.serves)
    begin = time.monotonic()
    later.start()
    assert client.wait_for_service("calc", 5) is None
    assert 0.05 < time.monotonic() - begin < 1
    client.wait_for_service("calc", 0.1)
    proxy.refuse()
    with pytest.raises(NotQueued):
        client.wait_for_service("calc", 0.1)
    for bad in (0, -1):
        with pytest.raises(ValueError, match="timeout"):
            client.wait_for_service("calc", bad)
    proxy.refuse(False)


def test_connecting_that_the_end_cuts_short_decides_nothing(shell: Blocking) -> None:
    """Many at once on one asyncio connection, so that for some the time is up before it is their turn."""

    async def wait() -> list[Any]:
        async with sabir.aio.Client(shell.url, namespace=shell.namespace) as client:
            waits = (client.wait_for_service("calc", 0.1 + n / 10_000) for n in range(400))
            return await asyncio.gather(*waits, return_exceptions=True)

    assert {type(ended) for ended in asyncio.run(wait())} == {ServiceUnavailable}


def test_a_look_that_the_end_cuts_short_decides_nothing(shell: Blocking, peer: Peer, proxy: Proxy) -> None:
    client = shell.client(proxy.url)
    asked = peer.raw.info("commandstats").get("cmdstat_exists", {"calls": 0})["calls"]

    def silence() -> None:
        eventually(lambda: peer.raw.info("commandstats").get("cmdstat_exists", {"calls": 0})["calls"] > asked + 1)
        proxy.silence()

    later = threading.Thread(target=silence)
    later.start()
    begin = time.monotonic()
    with pytest.raises(ServiceUnavailable, match="no worker serves calc"):
        client.wait_for_service("calc", 1)
    assert time.monotonic() - begin < 2
    later.join()
    proxy.silence(False)


def test_close_in_a_forked_child_leaves_the_parents_connections(url: str, namespace: str, peer: Peer) -> None:
    peer.serves()
    script = """
import os, sys, sabir
client = sabir.Client(sys.argv[1], namespace=sys.argv[2])
client.call("calc", "a", None, 5)
if (pid := os.fork()) == 0:
    client.close()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print(client.call("calc", "a", None, 5))
"""
    process = subprocess.Popen([sys.executable, "-c", script, url, namespace], stdout=subprocess.PIPE, text=True)
    for n in range(2):
        peer.answer(peer.take(), n)
    assert process.communicate(timeout=5)[0] == "1\n"


# ---------------------------------------------------------------------------------------------------- recovery


class Plant:
    """What a lost worker has left: its hand, under a lease that has ended."""

    def __init__(self, peer: Peer, worker: str = "lost.1") -> None:
        self.peer, self.worker = peer, worker
        peer.raw.zadd(peer.leases, {worker: 1})

    def hold(self, *elements: bytes) -> None:
        self.peer.raw.rpush(f"{self.peer.prefix}active:{self.worker}", *elements)

    def lost_before(self, element: bytes, times: int) -> bytes:
        self.peer.raw.set(f"{self.peer.prefix}attempts:{json.loads(element)['id']}", times)
        return element


@pytest.mark.usefixtures("beats")
def test_what_a_lost_worker_held_is_recovered(shell: Blocking, peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    """SABIR-RECOVER-1, -2, -3, -4, -5, -6, -8, SABIR-ATTEMPT-2."""
    plant = Plant(peer)
    call, again = peer.element("run", [1]), peer.element("run", [2], idempotent=True)
    late = peer.element("run", [3], idempotent=True, deadline=1)
    poison = plant.lost_before(peer.element("run", [4], idempotent=True), 2)
    note, note_again = peer.element("run", [5], call=False), peer.element("run", [6], call=False, idempotent=True)
    plant.hold(call, again, late, poison, note, note_again, b"garbage", b"\xff")
    server, ran = serve(shell)
    replies = {}
    for _ in range(4):
        reply = peer.reply()
        replies[reply["id"]] = reply["body"]
    codes = [replies[json.loads(e)["id"]].get("error", {}).get("code") for e in (call, again, late, poison)]
    assert codes == [LOST, None, LOST, LOST]
    assert replies[json.loads(again)["id"]]["result"] == 2
    eventually(lambda: sorted(ran) == [2, 6])
    letters = peer.letters()
    assert {letter["error"]["code"] for letter in letters} == {LOST}
    assert {letter.get("element", "").encode() for letter in letters} == {poison, note, b"garbage", b""}
    assert not peer.hand(plant.worker)
    eventually(lambda: peer.raw.zrange(peer.leases, 0, -1) == [server.worker.encode()])
    eventually(lambda: not peer.hand(server.worker))
    assert "recovered from lost workers: 8" in caplog.text


@pytest.mark.usefixtures("beats")
def test_a_call_survives_its_worker(shell: Blocking, peer: Peer) -> None:
    """SABIR-RECOVER-2, SABIR-RECOVER-3: seen by the callers."""
    client = shell.client()
    peer.serves()

    def play() -> Any:
        plant = Plant(peer)
        plant.hold(json.dumps(peer.take()).encode())
        serve(shell)

    assert shell.together(lambda: client.call("calc", "run", [1], 5, idempotent=True), play)[0] == 2
    peer.raw.delete(peer.requests)


def test_a_new_worker_does_not_recover(shell: Blocking, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """SABIR-RECOVER-7."""
    patch(monkeypatch, HEARTBEAT_MS=20)
    Plant(peer).hold(peer.element("run", [1]))
    server, _ = serve(shell)
    beats = eventually(lambda: peer.raw.info("commandstats")["cmdstat_evalsha"]["calls"])
    eventually(lambda: peer.raw.info("commandstats")["cmdstat_evalsha"]["calls"] > beats + 5)
    assert len(peer.hand("lost.1")) == 1
    assert server.stop(5)


def beat_times(lease: Lease, *times: float) -> None:
    for sent in times:
        lease.beat(sent, lost=False)


def test_who_may_recover() -> None:
    """SABIR-RECOVER-7: answered for a whole lease, with no more than 4 s between two."""
    lease = Lease()
    assert not lease.judges(100)
    beat_times(lease, 100, 103, 106)
    assert not lease.judges(109)
    beat_times(lease, 109)
    assert not lease.judges(109.9)
    assert lease.judges(110)
    assert lease.judges(113)
    assert not lease.judges(113.1)  # it was paused
    beat_times(lease, 113.1)
    assert not lease.judges(113.2)
    beat_times(lease, 116, 119, 122)
    assert not lease.judges(123)
    assert lease.judges(123.2)
    lease.beat(125, lost=True)
    assert not lease.judges(128)


def test_when_the_hand_has_to_be_read_again() -> None:
    """SABIR-LEASE-3."""
    lease = Lease()
    assert not lease.beat(100, lost=True)  # the first: there was none before
    taken = Taken(b"e", 100.0, lease.epoch)
    assert lease.covers(taken, 110)
    assert not lease.covers(taken, 110.1)
    assert lease.beat(103, lost=True)
    assert not lease.covers(taken, 103)
    assert lease.covers(Taken(b"e", 103.0, lease.epoch), 103)


def test_the_next_heartbeat_is_soon_where_there_is_more() -> None:
    """SABIR-RECOVER-9."""
    now = time.monotonic()
    assert beaten("calc", Lease(), [1, 2, 0, 1000, 1], now) < 0.5
    assert 2.9 < beaten("calc", Lease(), [1, 2, 0, 0, 0], now) <= 3


@pytest.mark.usefixtures("beats")
def test_more_than_fits_into_one_step(shell: Blocking, peer: Peer) -> None:
    Plant(peer).hold(*(peer.element("run", [n], call=False, idempotent=True) for n in range(1200)))
    _, ran = serve(shell)
    eventually(lambda: len(ran) == 1200)
    assert sorted(ran) == list(range(1200))


def test_a_script_that_redis_does_not_know(shell: Blocking, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """SABIR-SCRIPT-1."""
    patch(monkeypatch, HEARTBEAT_MS=20)
    server, _ = serve(shell)
    peer.raw.script_flush()
    peer.raw.delete(peer.alive)
    eventually(lambda: peer.raw.exists(peer.alive))
    patch(monkeypatch, HEARTBEAT_MS=3000)
    time.sleep(0.05)
    peer.raw.script_flush()
    assert server.stop(5)
    assert not peer.raw.exists(peer.leases)


# ---------------------------------------------------------------------------------------------------- attempts


def test_which_delivery_it_is(shell: Blocking, peer: Peer) -> None:
    """SABIR-ATTEMPT-1, SABIR-ATTEMPT-2."""
    plant = Plant(peer)
    _, ran = serve(shell)
    peer.push(
        peer.element("run", [0], idempotent=True),
        plant.lost_before(peer.element("run", [1], idempotent=True), 2),
        plant.lost_before(peer.element("run", [2]), 2),
    )
    assert sorted(peer.reply()["body"]["result"] for _ in range(3)) == [1, 1, 3]
    assert sorted(ran) == [0, 1, 2]
    wrong = peer.element("run", [3], idempotent=True)
    peer.raw.rpush(f"{peer.prefix}attempts:{json.loads(wrong)['id']}", "x")
    peer.push(wrong)
    assert peer.reply()["body"]["result"] == 1


@pytest.mark.parametrize(
    ("method", "members"), [("unknown", {}), ("run", {"deadline": 1}), ("run", {"params": {"no": 1}})], ids=str
)
def test_what_may_have_run_is_not_said_to_have_never_started(
    shell: Blocking, peer: Peer, method: str, members: dict[str, Any]
) -> None:
    """SABIR-ATTEMPT-1: of calls and of notifications; of a first delivery it is said."""
    plant = Plant(peer)
    _, ran = serve(shell)
    members = dict(members)
    params = members.pop("params", None)
    first = peer.element(method, params, idempotent=True, **members)
    again = plant.lost_before(peer.element(method, params, idempotent=True, **members), 1)
    note = plant.lost_before(peer.element(method, params, call=False, idempotent=True, **members), 1)
    peer.push(first, again, note)
    codes = {reply["id"]: reply["body"]["error"]["code"] for reply in (peer.reply(), peer.reply())}
    assert codes[json.loads(first)["id"]] in (-32601, -32001, -32602)
    assert codes[json.loads(again)["id"]] == LOST
    assert eventually(peer.letters)[0]["error"]["code"] == LOST
    assert ran == []


def test_a_question_that_is_lost_is_asked_again(shell: Blocking, peer: Peer, proxy: Proxy) -> None:
    """SABIR-ATTEMPT-1, SABIR-WORKER-6."""
    _, ran = serve(shell, url=proxy.url)
    proxy.cut(b"attempts")
    peer.push(peer.element("run", [1], idempotent=True))
    assert peer.reply()["body"]["result"] == 1
    assert proxy.acted.is_set()
    assert ran == [1]


# ---------------------------------------------------------------------------------------------------- a lost lease


@pytest.mark.parametrize("idempotent", [False, True])
def test_what_has_left_the_hand_is_not_started(
    shell: Blocking, peer: Peer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, idempotent: bool
) -> None:
    """SABIR-LEASE-3: the take was sent before the lease was lost, and brings something after it."""
    patch(monkeypatch, HEARTBEAT_MS=20)
    server, ran = serve(shell)
    blocked = lambda: peer.raw.info("clients")["blocked_clients"] >= 1  # noqa: E731
    eventually(blocked)
    peer.raw.zrem(peer.leases, server.worker)
    eventually(lambda: "the lease had ended" in caplog.text)
    gone, there = (peer.element("run", [n], idempotent=idempotent) for n in range(2))
    with peer.raw.pipeline(transaction=False) as pipeline:
        pipeline.rpush(peer.requests, gone).delete(f"{peer.prefix}active:{server.worker}").execute()
    eventually(lambda: "left the hand" in caplog.text)
    eventually(blocked)
    caplog.clear()
    peer.raw.zrem(peer.leases, server.worker)
    eventually(lambda: "the lease had ended" in caplog.text)
    peer.push(there)
    assert peer.reply()["id"] == json.loads(there)["id"]
    assert ran == [1]
    assert server.stop(5)
    assert not peer.raw.exists(peer.leases)


# ---------------------------------------------------------------------------------------------------- handlers that hang


def hangs(shell: Blocking, server: Any) -> threading.Event:
    """Register `hang`, which runs until the event is set, whatever is done to end it."""
    go = threading.Event()

    async def hang_async() -> str:
        while not go.is_set():
            try:
                await asyncio.sleep(0.002)
            except asyncio.CancelledError:
                pass
        return "late"

    def hang() -> str:
        go.wait(10)
        return "late"

    server.register("hang", hang_async if isinstance(shell, Asyncio) else hang)
    server.register("quick", lambda: "quick")
    return go


def test_a_handler_that_runs_too_long(shell: Blocking, peer: Peer) -> None:
    """SABIR-RUN-1: what it returns later is dropped, and its place is free then."""
    server = shell.server(handler_timeout=0.1, at_once=2)
    go = hangs(shell, server)
    server.start()
    assert server.wait_ready(5)
    client = shell.client()
    begin = time.monotonic()
    with pytest.raises(InternalError, match=r"the handler ran longer than 0\.1 s"):
        client.call("calc", "hang", None, 5)
    assert 0.09 < time.monotonic() - begin < 1
    eventually(lambda: not peer.hand(server.worker))
    assert client.call("calc", "quick", None, 5) == "quick"
    go.set()
    eventually(lambda: not getattr(server, "target", server)._overdue)
    go.clear()
    peer.push(peer.element("hang", call=False))
    assert eventually(peer.letters)[0]["error"]["code"] == InternalError.code
    go.set()
    assert client.many("calc", [("quick",)] * 4, 5) == ["quick"] * 4
    client.close()
    assert server.stop(5)
    assert not peer.raw.keys(f"{peer.prefix}[^d]*")


def test_paces() -> None:
    """A method is slow until it was quick, once; and then again when it was slow twice, or lost the lead."""
    paces = Paces()
    assert paces.is_slow("m", 0)
    paces.followed("m", 0.001, 0.1)  # between the two bounds: that says nothing
    assert paces.is_slow("m", 0.2)
    paces.followed("m", 0.0001, 0.3)
    assert not paces.is_slow("m", 0.3)
    paces.led("m", 0.01, 0.4, leads=True)
    assert not paces.is_slow("m", 0.4)
    paces.led("m", 0.0001, 0.5, leads=True)
    paces.led("m", 0.01, 0.6, leads=True)
    assert not paces.is_slow("m", 0.6)
    paces.led("m", 0.01, 0.7, leads=True)
    assert paces.is_slow("m", 0.7)
    assert paces.is_slow("m", 1.69)
    assert not paces.is_slow("m", 1.71)
    paces.led("m", 0.0001, 2.0, leads=False)
    assert paces.is_slow("m", 2.0)
    assert paces.is_slow("other", 9)


@pytest.mark.parametrize("rested", [False, True])
def test_a_quick_method_that_turns_slow_holds_up_nobody(
    url: str, namespace: str, rested: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SABIR-TRANSPORT-3: its thread loses the lead, and what it answers in the end goes another way.

    Also where nothing was run before for so long that nobody looks any more.
    """
    monkeypatch.setattr(sabir.server, "REST", 0.001)
    go = threading.Event()

    def mixed(waits: bool) -> str:
        return str(go.wait(10)) if waits else "quick"

    server = sabir.Server("calc", url, namespace=namespace, threads=2)
    server.register("mixed", mixed)
    with server, sabir.Client(url, namespace=namespace) as client:
        eventually(lambda: client.call("calc", "mixed", [False]) and not server._paces.is_slow("mixed", time.monotonic()))
        if rested:
            eventually(lambda: not server._led.is_set())
        turn = server._turn
        slow: list[Any] = []
        waiting = threading.Thread(target=lambda: slow.append(client.call("calc", "mixed", [True])))
        waiting.start()
        eventually(lambda: server._turn > turn)
        begin = time.monotonic()
        assert client.call("calc", "mixed", [False]) == "quick"
        assert time.monotonic() - begin < 1
        assert not slow
        go.set()
        waiting.join()
        assert slow == ["True"]
        assert client.call("calc", "mixed", [False]) == "quick"


def test_a_handler_that_ends_when_it_is_cancelled(url: str, namespace: str) -> None:
    """SABIR-RUN-1."""

    async def main() -> None:
        server = sabir.aio.Server("calc", url, namespace=namespace, handler_timeout=0.05, concurrency=1)
        ended: list[bool] = []

        @server.method
        async def slow() -> None:
            try:
                await asyncio.sleep(10)
            finally:
                ended.append(True)

        @server.method
        def holds() -> str:
            time.sleep(0.1)
            return "too late"

        async with server, sabir.aio.Client(url, namespace=namespace) as client:
            for method in ("slow", "holds", "slow"):
                with pytest.raises(InternalError, match="ran longer"):
                    await client.call("calc", method, None, 5)
        assert ended == [True, True]

    asyncio.run(main())


def test_a_worker_whose_handlers_all_hang_stops(shell: Blocking, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """SABIR-RUN-2."""
    patch(monkeypatch, _GRACE=0.05)
    server = shell.server(handler_timeout=0.05, at_once=2)
    go = hangs(shell, server)
    server.start()
    peer.push(peer.element("hang"), peer.element("hang"))
    assert [peer.reply()["body"]["error"]["code"] for _ in range(2)] == [InternalError.code] * 2
    eventually(lambda: not peer.raw.exists(peer.leases))
    assert not peer.hand(server.worker)
    assert not peer.raw.exists(peer.alive)
    peer.push(peer.element("quick"))
    assert server.stop(5)
    assert peer.raw.llen(peer.requests) == 1
    go.set()
    eventually(lambda: not getattr(server, "target", server)._overdue)


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_its_program_ends_with_an_error(url: str, namespace: str, peer: Peer, kind: str) -> None:
    """SABIR-RUN-2."""
    script = {
        "blocking": "import time; server = sabir.Server('calc', *a, threads=1, **o)"
        "; server.register('hang', lambda: time.sleep(60)); server.run()",
        "asyncio": "import asyncio; server = sabir.aio.Server('calc', *a, concurrency=1, **o)\n"
        "async def hang():\n try: await asyncio.sleep(60)\n except asyncio.CancelledError: await asyncio.sleep(60)\n"
        "server.register('hang', hang); asyncio.run(server.run())",
    }[kind]
    begin = "import sys, sabir, sabir.aio; a, o = sys.argv[1:2], {'namespace': sys.argv[2], 'handler_timeout': 0.05}\n"
    process = subprocess.Popen([sys.executable, "-c", begin + script, url, namespace], stderr=subprocess.PIPE, text=True)
    try:
        peer.push(peer.element("hang"))
        assert peer.reply()["body"]["error"]["code"] == InternalError.code
        complaint = process.communicate(timeout=10)[1]
        assert process.returncode == 1
        assert "RuntimeError: calc: every handler has run longer than 0.05 s" in complaint
        assert not peer.raw.exists(peer.leases)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("bad", [0, -1, float("inf"), float("nan")])
def test_a_limit_is_a_number_of_seconds(shell: Blocking, bad: Any) -> None:
    with pytest.raises(ValueError, match="handler_timeout: expected"):
        shell.Server("calc", handler_timeout=bad)
    with pytest.raises(TypeError, match="handler_timeout: expected"):
        shell.Server("calc", handler_timeout="1")


# ---------------------------------------------------------------------------------------------------- warnings


@pytest.mark.parametrize(("policy", "warned"), [("allkeys-lru", True), ("noeviction", False)])
def test_a_redis_that_evicts(
    shell: Blocking, tmp_path: Path, caplog: pytest.LogCaptureFixture, policy: str, warned: bool
) -> None:
    """SABIR-TRANSPORT-5."""
    with redis_server(tmp_path, "--maxmemory-policy", policy) as url:
        shell.url = url
        server, _ = serve(shell)
        assert server.stop(5)
    assert sum("may evict the queue" in record.getMessage() for record in caplog.records) == warned


def test_a_handler_that_holds_the_loop(
    url: str, namespace: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """SABIR-LEASE-1: heartbeats come late then, and it is said."""
    patch(monkeypatch, HEARTBEAT_MS=20, _LATE=0.05)

    async def main() -> None:
        server = sabir.aio.Server("calc", url, namespace=namespace)
        server.register("hold", lambda: time.sleep(0.2))
        async with server, sabir.aio.Client(url, namespace=namespace) as client:
            await client.call("calc", "hold", None, 5)
            await asyncio.sleep(0.05)

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert "something has held the event loop" in caplog.text
