"""Lost and silent connections, and error replies, at each point of a call: through a proxy, and on servers of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio.sentinel
import redis.sentinel
from redis.exceptions import MasterDownError
from support import Blocking, Peer, Proxy, eventually, redis_server

import sabir
from sabir import CallTimeout, ConnectionLost, NotQueued, ServiceUnavailable, _link


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is noticed in tenths of a second."""
    for name in ("client", "server", "aio.client", "aio.server"):
        module = sys.modules[f"sabir.{name}"]
        for constant, value in (("MARGIN", 0.2), ("ANSWER", 0.2), ("ASK", 0.2)):
            if hasattr(module, constant):
                monkeypatch.setattr(module, constant, value)
    monkeypatch.setattr(sabir.commands, "TAKE_BLOCK_MS", 100)


def serve(shell: Blocking, proxy: Proxy | None = None, **options: Any) -> tuple[Any, list[Any]]:
    ran: list[Any] = []
    server = shell.server(url=proxy.url if proxy else None, **options)
    server.register("run", ran.append)
    server.start()
    assert server.wait_ready(5)
    return server, ran


# ---------------------------------------------------------------------------------------------------- client


def test_rpush_without_an_answer_is_not_sent_again(shell: Blocking, peer: Peer, proxy: Proxy) -> None:
    """SABIR-LOST-1, SABIR-LOST-2: one element, and the call still gets its reply."""
    peer.serves()
    client = shell.client(proxy.url)
    proxy.cut(b"RPUSH")

    def play() -> int:
        assert proxy.acted.wait(5)
        request = peer.take()
        others = peer.raw.llen(peer.requests)
        peer.answer(request, "fine")
        return others

    assert shell.together(lambda: client.call("calc", "add", None, 5), play) == ["fine", 0]
    assert shell.together(lambda: client.call("calc", "add", None, 5), lambda: peer.answer(peer.take(), 2))[0] == 2
    assert not peer.raw.exists(peer.requests)


@pytest.mark.usefixtures("quick")
def test_a_silent_peer_does_not_lose_the_reply(shell: Blocking, peer: Peer, proxy: Proxy) -> None:
    """SABIR-TRANSPORT-2, SABIR-TOKEN-1: the old connection, which the server still holds blocked, takes nothing."""
    peer.serves()
    client = shell.client(proxy.url)
    proxy.mute(b"RPUSH")

    def play() -> int:
        request = peer.take()
        assert proxy.acted.wait(5)
        time.sleep(0.45)  # till the silence was noticed
        peer.answer(request, "fine")
        return peer.raw.llen(peer.requests)

    assert shell.together(lambda: client.call("calc", "add", None, 5), play) == ["fine", 0]


@pytest.mark.parametrize("when", ["connecting", "sending"])
def test_a_silent_peer_does_not_hold_a_call(shell: Blocking, proxy: Proxy, peer: Peer, when: str) -> None:
    """SABIR-CALL-2: time-out and one second."""
    client = shell.client(proxy.url)
    if when == "sending":
        client.notify("calc", "warm")
        peer.take()
    proxy.silence()
    begin = time.monotonic()
    with pytest.raises(NotQueued if when == "connecting" else (CallTimeout, ConnectionLost)):
        client.call("calc", "add", None, 0.3)
    assert 0.25 < time.monotonic() - begin < 1.3
    if when == "connecting":
        begin = time.monotonic()
        with pytest.raises(NotQueued):
            client.notify("calc", "add", timeout=0.3)
        assert time.monotonic() - begin < 1.3
    proxy.silence(False)
    assert not peer.raw.exists(peer.requests)


def test_nothing_listens(shell: Blocking, proxy: Proxy) -> None:
    """SABIR-LOST-5."""
    client = shell.client(proxy.url)
    proxy.refuse()
    begin = time.monotonic()
    with pytest.raises(NotQueued, match="no connection to Redis"):
        client.call("calc", "add", None, 0.2)
    results = client.many("calc", [("a",), ("b",)], 0.1)
    assert [type(result) for result in results] == [NotQueued, NotQueued]
    assert time.monotonic() - begin < 1


@pytest.mark.parametrize("timeout", [1e-9, 1e-300])
def test_a_time_out_too_short_for_anything(shell: Blocking, timeout: float) -> None:
    with pytest.raises((NotQueued, CallTimeout, ServiceUnavailable)):
        shell.client().call("calc", "add", None, timeout)


def test_a_connection_that_comes_in_time(shell: Blocking, peer: Peer, proxy: Proxy) -> None:
    peer.serves()
    client = shell.client(proxy.url)
    proxy.refuse()

    def play() -> None:
        time.sleep(0.1)  # a few attempts
        proxy.refuse(False)
        peer.answer(peer.take(), "fine")

    assert shell.together(lambda: client.call("calc", "add", None, 5), play)[0] == "fine"


def test_lost_while_waiting(shell: Blocking, peer: Peer, proxy: Proxy) -> None:
    """SABIR-LOST-2."""
    peer.serves()
    client = shell.client(proxy.url)

    def play(back: bool) -> None:
        request = peer.take()
        time.sleep(0.02)  # the wait is under way
        proxy.refuse()
        peer.answer(request, "fine")
        if back:
            proxy.refuse(False)

    assert shell.together(lambda: client.call("calc", "add", None, 5), lambda: play(True))[0] == "fine"
    begin = time.monotonic()
    got = shell.together(lambda: client.call("calc", "add", None, 0.4), lambda: play(False))[0]
    assert type(got) is ConnectionLost
    assert time.monotonic() - begin < 1.4
    proxy.refuse(False)
    # What came too late for that call is not taken for the next one's.
    assert shell.together(lambda: client.call("calc", "add", None, 5), lambda: peer.answer(peer.take(), 2))[0] == 2


def test_a_notification_that_may_be_queued(shell: Blocking, peer: Peer, proxy: Proxy) -> None:
    """SABIR-LOST-1."""
    client = shell.client(proxy.url)
    proxy.cut(b"RPUSH")
    with pytest.raises(ConnectionLost):
        client.notify("calc", "note", timeout=5)
    assert peer.raw.llen(peer.requests) == 1


def test_an_idle_connection_that_was_closed(shell: Blocking, peer: Peer, proxy: Proxy) -> None:
    client = shell.client(proxy.url)
    client.notify("calc", "note")
    proxy.refuse()
    proxy.refuse(False)
    time.sleep(0.02)  # idle
    client.notify("calc", "note")
    assert peer.raw.llen(peer.requests) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # where it hits a destructor
def test_a_call_that_is_interrupted(url: str, namespace: str, peer: Peer) -> None:
    """An exception from outside (Ctrl-C) leaves no answer behind for the next call."""
    peer.serves()
    client = sabir.Client(url, namespace=namespace)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for delay in (0.03, 0.001, 0.0003, 0.0001):
            signal.setitimer(signal.ITIMER_REAL, delay, 0.05)  # again, should a destructor swallow it
            with pytest.raises(KeyboardInterrupt):
                client.call("calc", "add", None, 5)
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    peer.raw.delete(peer.requests)
    shell = Blocking(url, namespace)
    assert shell.together(lambda: client.call("calc", "add", None, 5), lambda: peer.answer(peer.take(), 2))[0] == 2
    client.close()


def test_a_used_client_survives_a_fork(url: str, namespace: str, peer: Peer) -> None:
    """New connections in the child; the parent's go on working."""
    peer.serves()
    script = """
import os, sys, sabir
client = sabir.Client(sys.argv[1], namespace=sys.argv[2])
client.notify("calc", "warm")
tokens = lambda: (client.call("calc", "token", None, 5))
print(tokens(), flush=True)
pid = os.fork()
if pid == 0:
    print(tokens(), flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print(tokens(), flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, url, namespace], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert peer.take()["body"]["method"] == "warm"
    for _ in range(3):
        request = peer.take()
        peer.answer(request, request["reply_to"])
    tokens = process.communicate(timeout=5)[0].split()
    assert process.returncode == 0
    assert len(set(tokens)) == 3  # SABIR-TOKEN-1


# ---------------------------------------------------------------------------------------------------- worker


def test_a_reply_without_an_answer_is_not_sent_again(shell: Blocking, peer: Peer, proxy: Proxy) -> None:
    """SABIR-LOST-4, SABIR-REPLY-2: the list holds one reply."""
    server, ran = serve(shell, proxy)
    proxy.cut(b"RPUSH")
    peer.push(peer.element("run", [1]))
    assert proxy.acted.wait(5)
    peer.push(peer.element("run", [2]))
    assert eventually(lambda: peer.raw.llen(peer.reply_key) == 2)
    eventually(lambda: not peer.hand(server.worker))
    assert server.stop(5)
    assert peer.raw.llen(peer.reply_key) == 2
    assert sorted(ran) == [1, 2]
    assert not peer.raw.exists(peer.leases)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["reply", "notification", "dead letter"])
def test_a_silent_peer_does_not_double_an_outcome(shell: Blocking, peer: Peer, proxy: Proxy, kind: str) -> None:
    """SABIR-LOST-4, SABIR-TRANSPORT-2."""
    server, ran = serve(shell, proxy)
    proxy.mute({"reply": b"RPUSH", "notification": b"LREM", "dead letter": b"LTRIM"}[kind])
    peer.push(b"x" if kind == "dead letter" else peer.element("run", [1], call=kind == "reply"))
    assert proxy.acted.wait(5)
    peer.push(peer.element("run", [2]))
    assert eventually(lambda: peer.raw.llen(peer.reply_key) == (2 if kind == "reply" else 1))
    eventually(lambda: not peer.hand(server.worker))
    assert server.stop(5)
    assert peer.raw.llen(peer.reply_key) == (2 if kind == "reply" else 1)
    assert len(peer.letters()) == (1 if kind == "dead letter" else 0)
    assert sorted(ran) == ([2] if kind == "dead letter" else [1, 2])


def test_a_reply_that_was_not_executed_is_sent_again(shell: Blocking, peer: Peer, proxy: Proxy) -> None:
    server, ran = serve(shell, proxy, at_once=1)
    peer.push(peer.element("run", [0]))
    peer.reply()
    proxy.refuse()
    proxy.refuse(False)
    peer.push(peer.element("run", [1]))
    assert peer.reply()["body"]["result"] is None
    assert ran == [0, 1]
    eventually(lambda: not peer.hand(server.worker))


def test_a_take_whose_answer_is_lost_is_run(shell: Blocking, peer: Peer, proxy: Proxy) -> None:
    """SABIR-LOST-3."""
    server, ran = serve(shell, proxy)
    proxy.cut(b"BLMOVE")
    eventually(lambda: peer.raw.info("clients")["blocked_clients"] >= 1)
    peer.push(peer.element("run", [1]), peer.element("run", [2]))
    eventually(lambda: peer.raw.llen(peer.reply_key) == 2)
    assert sorted(ran) == [1, 2]
    eventually(lambda: not peer.hand(server.worker))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kill", [True, False], ids=["CLIENT KILL", "without CLIENT KILL"])
def test_a_silent_take_is_ended_or_outwaited(
    shell: Blocking, peer: Peer, proxy: Proxy, raw: redis.Redis, kill: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """SABIR-LOST-3: what the old connection takes is found in the hand, and run once."""
    user = f"{shell.namespace.replace('.', '-')}-k"
    raw.execute_command("ACL", "SETUSER", user, "on", ">secret", "~*", "&*", "+@all", *([] if kill else ["-client|kill"]))
    try:
        url, proxy.url = proxy.url, proxy.url.replace("//", f"//{user}:secret@")
        server, ran = serve(shell, proxy)
        proxy.url = url
        proxy.mute(b"BLMOVE")
        assert proxy.acted.wait(5)
        for n in range(20):
            peer.push(peer.element("run", [n]))
            time.sleep(0.02)
        eventually(lambda: peer.raw.llen(peer.reply_key) == 20)
        assert sorted(ran) == list(range(20))
        assert server.stop(5)
    finally:
        raw.execute_command("ACL", "DELUSER", user)
    assert sum("take" in record.getMessage() for record in caplog.records) == 2  # once lost, once back


def test_the_lease_survives_lost_connections(
    shell: Blocking, peer: Peer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SABIR-LEASE-1, SABIR-WORKER-6."""
    monkeypatch.setattr(sabir.commands, "HEARTBEAT_MS", 30)
    _, ran = serve(shell, proxy)
    proxy.cut(b"EVALSHA")
    assert proxy.acted.wait(5)
    peer.raw.delete(peer.alive)
    eventually(lambda: peer.raw.exists(peer.alive))
    proxy.refuse()
    time.sleep(0.1)
    proxy.refuse(False)
    peer.raw.delete(peer.alive)
    eventually(lambda: peer.raw.exists(peer.alive))
    peer.push(peer.element("run", [1]))
    peer.reply()
    assert ran == [1]


def test_stop_while_redis_is_away(shell: Blocking, proxy: Proxy) -> None:
    server, _ = serve(shell, proxy)
    proxy.refuse()
    begin = time.monotonic()
    assert server.stop(5)
    assert time.monotonic() - begin < 3


def test_stop_before_redis_was_ever_there(shell: Blocking, proxy: Proxy) -> None:
    proxy.refuse()
    server = shell.server(url=proxy.url)
    server.start()
    assert not server.wait_ready(0.05)
    begin = time.monotonic()
    assert server.stop()
    assert time.monotonic() - begin < 3


def test_stop_gives_back_what_a_lost_take_has_brought(shell: Blocking, peer: Peer, proxy: Proxy) -> None:
    """SABIR-STOP-3, SABIR-STOP-4."""
    server, ran = serve(shell, proxy)
    proxy.cut(b"BLMOVE")
    eventually(lambda: peer.raw.info("clients")["blocked_clients"] >= 1)
    eventually(lambda: proxy._rule is None)
    # the stop comes while the answer is under way
    stopping = getattr(server, "target", server)._stopping
    getattr(shell, "loop", None).call_soon_threadsafe(stopping.set) if hasattr(shell, "loop") else stopping.set()
    peer.push(peer.element("run", [1]))
    assert proxy.acted.wait(5)
    assert server.stop(5)
    assert ran == []
    assert peer.raw.llen(peer.requests) == 1
    assert not peer.hand(server.worker)
    assert not peer.raw.exists(peer.leases)


# ---------------------------------------------------------------------------------------------------- error replies


@pytest.fixture
def own(tmp_path: Path, namespace: str) -> Iterator[tuple[str, redis.Redis, Peer]]:
    with redis_server(tmp_path) as url, redis.Redis.from_url(url) as raw:
        yield url, raw, Peer(raw, namespace)


def test_a_full_redis(shell: Blocking, own: tuple[str, redis.Redis, Peer]) -> None:
    """SABIR-LOST-5, SABIR-WORKER-6: OOM is final for a call, and outwaited by a worker."""
    url, raw, peer = own
    shell.url = url
    server, ran = serve(shell)
    client = shell.client()
    eventually(lambda: raw.info("clients")["blocked_clients"] == 1)
    peer.push(peer.element("run", [1]))
    peer.reply()
    raw.config_set("maxmemory", 1)
    begin = time.monotonic()
    with pytest.raises(NotQueued, match="OOM"):
        client.call("calc", "run", [2], 5)
    with pytest.raises(NotQueued, match="OOM"):
        client.notify("calc", "run", [2])
    assert time.monotonic() - begin < 1
    raw.config_set("maxmemory", 0)
    assert client.call("calc", "run", [3], 10) is None
    assert ran == [1, 3]
    assert server.stop(5)


def test_a_replica(shell: Blocking, own: tuple[str, redis.Redis, Peer]) -> None:
    """READONLY passes: calls and workers go on when the server is a primary again, on connections made anew."""
    url, raw, _peer = own
    shell.url = url
    client = shell.client()
    server, ran = serve(shell)
    client.notify("calc", "run", [0])
    eventually(lambda: ran == [0])
    raw.execute_command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(NotQueued, match="READONLY"):
        client.notify("calc", "run", [1], timeout=0.2)
    with pytest.raises(NotQueued):
        client.call("calc", "run", [1], 0.2)

    def back() -> None:
        time.sleep(0.1)
        raw.execute_command("REPLICAOF", "NO", "ONE")

    assert shell.together(lambda: client.call("calc", "run", [2], 10), back)[0] is None
    assert ran == [0, 2]
    assert server.stop(5)


@pytest.mark.parametrize("user", ["", ":wrong@", "nobody:x@"], ids=["none", "wrong", "unknown"])
def test_a_password(shell: Blocking, tmp_path: Path, user: str) -> None:
    with redis_server(tmp_path, "--requirepass", "secret") as url:
        client = shell.client(url.replace("//", f"//{user}"))
        begin = time.monotonic()
        with pytest.raises(NotQueued, match=r"Redis refused the connection: (NOAUTH |WRONGPASS )?\w"):
            client.call("calc", "run", [1], 5)
        with pytest.raises(NotQueued):
            client.notify("calc", "run", [1])
        assert time.monotonic() - begin < 1
        shell.url = url.replace("//", "//:secret@")
        server, _ = serve(shell)
        assert shell.client().call("calc", "run", [1], 5) is None
        assert server.stop(5)


def test_wrong_types_at_the_client(shell: Blocking, peer: Peer) -> None:
    peer.raw.set(peer.requests, "x")
    for act in (lambda c: c.call("calc", "run", [1], 5), lambda c: c.notify("calc", "run", [1])):
        with pytest.raises(NotQueued, match="WRONGTYPE"):
            act(shell.client())
    assert type(shell.client().many("calc", [("run", [1])])[0]) is NotQueued


@pytest.mark.parametrize("part", ["requests", "leases", "dead", "alive", "active"])
def test_wrong_types_at_the_worker(shell: Blocking, peer: Peer, part: str) -> None:
    """SABIR-WORKER-6: nothing of it ends a worker, and nothing that it takes is lost."""
    server = shell.server()
    ran: list[Any] = []
    server.register("run", ran.append)
    key = peer.prefix + part + (f":{server.worker}" if part == "active" else "")
    if part == "alive":
        peer.raw.rpush(key, "x")
    else:
        peer.raw.set(key, "x")
    server.start()
    if part == "leases":  # SABIR-LEASE-1: no take without a heartbeat
        assert not server.wait_ready(0.05)
        peer.raw.delete(key)
    assert server.wait_ready(5)
    if part == "requests":
        eventually(lambda: peer.raw.zscore(peer.leases, server.worker))
    if part in ("requests", "active"):
        time.sleep(0.03)
        assert ran == []
        peer.raw.delete(key)
    peer.push(b"no JSON", peer.element("run", [1]), peer.element("run", [2]))
    assert [peer.reply()["body"]["result"] for _ in range(2)] == [None, None]
    assert sorted(ran) == [1, 2]
    eventually(lambda: not peer.hand(server.worker))
    assert server.stop(5)
    assert not peer.raw.exists(peer.leases)


def test_a_reply_list_of_the_wrong_type(shell: Blocking, peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    """SABIR-WORKER-6: one client's broken list is not the others' trouble."""
    server, ran = serve(shell, at_once=1)
    peer.raw.set(peer.reply_key, "x")
    peer.push(peer.element("run", [1]))
    assert shell.client().call("calc", "run", [2], 5) is None
    assert ran == [1, 2]
    eventually(lambda: not peer.hand(server.worker))
    assert "WRONGTYPE" in caplog.text


def test_a_sentinels_primary(shell: Blocking, own: tuple[str, redis.Redis, Peer], tmp_path: Path) -> None:
    """An injected client may find its server by a Sentinel."""
    host, port = own[1].connection_pool.connection_kwargs["host"], own[1].connection_pool.connection_kwargs["port"]
    config = tmp_path / "sentinel.conf"
    config.write_text(f"sentinel monitor primary {host} {port} 1\n")
    with redis_server(tmp_path, "--sentinel", config=config) as sentinel:
        where = [("127.0.0.1", int(sentinel.split(":")[2].split("/")[0]))]
        kind = redis.asyncio.sentinel.Sentinel if shell.name == "asyncio" else redis.sentinel.Sentinel
        sentinels = kind(where)
        server, ran = serve(shell, redis=sentinels.master_for("primary"))
        client = shell.client(redis=sentinels.master_for("primary"))
        assert client.call("calc", "run", [1], 5) is None
        own[1].execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        time.sleep(0.02)  # idle
        assert client.call("calc", "run", [2], 5) is None
        assert ran == [1, 2]
        assert server.stop(5)
        if shell.name == "asyncio":
            shell.run(sentinels.sentinels[0].aclose())  # type: ignore[attr-defined]


def test_a_unix_socket(shell: Blocking, tmp_path: Path) -> None:
    with redis_server(tmp_path, "--unixsocket", str(tmp_path / "s")):
        shell.url = f"unix://{tmp_path / 's'}"
        server, _ = serve(shell)
        assert shell.client().call("calc", "run", [1], 5) is None
        assert server.stop(5)


def test_error_replies_are_told_from_lost_connections() -> None:
    """redis-py makes connection errors of some error replies, and takes their codes off."""
    hidden = redis.ConnectionError("The previous master is now a slave")
    hidden.__context__ = redis.ReadOnlyError("You can't write against a read only replica.")
    for error, code in (
        (redis.BusyLoadingError("Redis is loading the dataset in memory"), "LOADING"),
        (redis.ReadOnlyError("You can't write against a read only replica."), "READONLY"),
        (MasterDownError("Link with MASTER is down"), "MASTERDOWN"),
        (redis.ResponseError("NOREPLICAS Not enough good replicas to write."), "NOREPLICAS"),
        (redis.ResponseError("BUSY Redis is busy running a script."), "BUSY"),
        (hidden, "READONLY"),
    ):
        refusal = _link._refusal(error)
        assert refusal is not None
        assert _link.is_transient(refusal)
        assert _link.describe(refusal).startswith(code)
    assert _link._refusal(redis.ConnectionError("Connection closed by server.")) is None
    assert not _link.is_transient(redis.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."))
    assert _link.describe(redis.OutOfMemoryError("command not allowed")) == "OOM command not allowed"


def test_an_old_id_is_not_somebody_elses(url: str, raw: redis.Redis) -> None:
    """SABIR-LOST-3: connection ids start again with the server, so that an old one is ended by its address too."""
    link = _link.Link(_link.factory(url, None), _link.Clock())
    link.open(2)
    assert link.who is not None
    id, address = link.who
    assert link._kill() == [("CLIENT", "KILL", "ID", id, "ADDR", address)]
    stranger = raw.client_id()
    link.who = (str(stranger), address)  # as after a restart
    link.close()
    link.open(2)
    assert raw.client_id() == stranger
    link.close()


def test_only_an_answered_kill_ends_the_old_connection_for_sure() -> None:
    link = _link.Link(lambda: None, _link.Clock())
    assert link._kill() == []
    assert link._settled(("7", "a:1"), [], [])
    assert link._settled(("9", "a:2"), link._kill(), [1])
    assert not link._settled(("9", "a:2"), link._kill(), [redis.ResponseError("NOPERM")])
    assert link._settled(None, link._kill(), [0])
    assert not link._settled(("9", "a:2"), link._kill(), [])


def test_answers_are_read_into_slices_of_a_buffer() -> None:
    """SABIR-TRANSPORT-4: over TLS, asyncio writes a long answer into slices of it, one record after another."""

    class Transport:
        def get_protocol(self) -> Any:
            return asyncio.Protocol()

        def set_protocol(self, protocol: Any) -> None:
            pass

    async def read() -> list[Any]:
        answers = _link._Answers(Transport())
        data = b"$9\r\nlong text\r\n+OK\r\n"
        buffer = answers.get_buffer(len(data))
        buffer[: len(data)] = bytes(len(data))
        for at, byte in enumerate(data):
            buffer[at:][:1] = bytes([byte])
        answers.buffer_updated(len(data))
        read = await answers.read(2, 1)
        answers.connection_lost(None)
        return read

    assert asyncio.run(read()) == [b"long text", b"OK"]
