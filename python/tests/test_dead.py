"""Dead letters: what they say, reading them while they move, sending them again, dropping them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from support import ID, PROTOCOL, Peer, Proxy, eventually, free_port

from sabir import ApplicationError, ConnectionLost, InternalError, MethodNotFound, NotQueued, ParseError, Server, WorkerLost
from sabir.dead import DeadLetters, decode, without_deadline
from sabir.messages import KEPT_BYTES, encode_dead_letter, encode_request, error_object

WORKER = "calc-1.5b1f0c3e9a7d2468"
LOST = error_object(WorkerLost.code, "lost")
NOTIFICATION = encode_request(ID, None, "add", [1, 2], deadline=1_764_000_005_000, idempotent=True)
CALL = encode_request(ID, "web-1.9d2e61f0a47b4c5e", "add", [1, 2])


def written(number: int, element: bytes = NOTIFICATION) -> bytes:
    """A dead letter; ``number`` tells it from others."""
    return encode_dead_letter(1_764_000_000_000 + number, WORKER, LOST, element)


def members(**others: Any) -> bytes:
    """A dead letter with some members exchanged; None: absent."""
    letter = {"v": 1, "at": 1, "worker": WORKER, "error": LOST, "element": "hello", **others}
    return json.dumps({name: value for name, value in letter.items() if value is not None}).encode()


@pytest.fixture
def dead(url: str, namespace: str) -> Iterator[DeadLetters]:
    with DeadLetters("calc", url, namespace=namespace) as one:
        yield one


# ---------------------------------------------------------------------------------------------------- what they say


def test_a_letter_says_what_it_holds() -> None:
    raw = encode_dead_letter(1_764_000_005_000, WORKER, error_object(1001, "no", {"a": 1}), NOTIFICATION)
    letter = decode(raw)
    assert (letter.raw, letter.at, letter.worker) == (raw, 1_764_000_005_000, WORKER)
    assert type(letter.error) is ApplicationError
    assert (letter.error.code, letter.error.message, letter.error.data) == (1001, "no", {"a": 1})
    assert (letter.element, letter.size, letter.is_cut) == (NOTIFICATION, len(NOTIFICATION), False)
    assert (letter.id, letter.method, letter.kind, letter.fault) == (ID, "add", "notification", None)
    assert letter.request is not None
    assert (letter.request.deadline, letter.request.idempotent) == (1_764_000_005_000, True)
    assert letter.digest == hashlib.sha256(raw).hexdigest()
    assert letter == decode(raw)
    assert letter != decode(written(1))
    assert "1, 2" not in repr(letter)  # SABIR-SECURITY-1: letters are logged
    assert decode(written(1, CALL)).kind == "call"


def test_the_schema_s_example_is_read() -> None:
    (example,) = json.loads((PROTOCOL / "schemas/dead-letter.schema.json").read_text())["examples"]
    letter = decode(json.dumps(example).encode())
    assert type(letter.error) is ParseError
    assert (letter.at, letter.worker, letter.element) == (example["at"], example["worker"], b"hello")
    assert (letter.id, letter.kind, letter.method, letter.request) == (None, None, None, None)
    assert "expected UTF-8 JSON" in str(letter.fault)


def test_bytes_that_are_no_text_are_read() -> None:
    letter = decode(written(1, b"\xff\x00"))
    assert (letter.element, letter.size, letter.is_cut) == (b"\xff\x00", 2, False)


def test_of_a_cut_element_the_head_is_read() -> None:
    """SABIR-DEAD-5."""
    element = b'{"v":1,"id":"%s","body":{"params":["%s"]}}' % (ID.encode(), b"x" * KEPT_BYTES)
    letter = decode(written(1, element))
    assert (letter.is_letter, letter.is_cut, letter.size) == (True, True, len(element))
    assert letter.element == element[:KEPT_BYTES]
    assert (letter.id, letter.request, letter.kind) == (ID, None, None)
    assert letter.fault == f"only {KEPT_BYTES} of its {len(element)} bytes were kept"


def test_a_request_over_a_limit_can_be_sent_again() -> None:
    """The limits are those of a worker, and may have been raised."""
    params: list[Any] = ["x" * 2_000_000]
    for _ in range(100):
        params = [params]
    element = json.dumps({"v": 1, "id": ID, "body": {"jsonrpc": "2.0", "method": "m", "params": params}}).encode()
    assert decode(written(1, element)).fault is None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"hello",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        CALL,
        members(v=2),
        members(v=True),
        members(at="1"),
        members(at=None),
        members(worker="w"),
        members(worker=None),
        members(error=None),
        members(error=[]),
        members(error={"code": "1", "message": "m"}),
        members(error={"code": 1}),
        members(element=None),
        members(element=7),
        members(element_base64="aGVsbG8="),
        members(element=None, element_base64="a"),
        members(element=None, element_base64="é"),
        members(element=None, element_base64=7),
        members(element=None, element_base64="aGVsbG8=", size=4),
        members(element=None, element_base64="aGVsbG8=", size="9"),
    ],
    ids=lambda raw: raw[-40:].decode(errors="replace"),
)
def test_what_is_no_letter_is_shown_as_such(raw: bytes) -> None:
    letter = decode(raw)
    assert letter.raw == raw
    assert not letter.is_letter
    assert not letter.is_cut
    assert (letter.at, letter.worker, letter.error, letter.element, letter.size) == (None,) * 5
    assert (letter.id, letter.kind, letter.method, letter.fault) == (None, None, None, "it is no dead letter")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary() | st.fixed_dictionaries({}, optional=dict.fromkeys(json.loads(members(size=1)), JSON)))
def test_no_bytes_break_the_reading(given: Any) -> None:
    raw = given if isinstance(given, bytes) else json.dumps(given).encode()
    assert decode(raw).raw == raw


# ---------------------------------------------------------------------------------------------------- the deadline


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        ('{"v":1,"deadline":17,"b":2}', '{"v":1,"b":2}'),
        ('{"v":1,"b":2,"deadline":17}', '{"v":1,"b":2}'),
        ('{"deadline":17,"v":1,"deadline":18}', '{"v":1}'),
        (' { "v" : 1 , "\\u0064eadline" : 1e3 ,\n"b" : 2 } ', '{ "v" : 1 ,\n"b" : 2 }'),
        ('{"v":1,"deadline":17,"b":{"deadline":[1,{"a":"}],\\"{"}]}}', '{"v":1,"b":{"deadline":[1,{"a":"}],\\"{"}]}}'),
        ('{"v":"deadline","deadline":1}', '{"v":"deadline"}'),
        ('{"n":123456789012345678901234567890,"deadline":1,"f":1.0e+2}', '{"n":123456789012345678901234567890,"f":1.0e+2}'),
    ],
)
def test_the_deadline_alone_is_left_out(element: str, expected: str) -> None:
    """SABIR-DEAD-6."""
    assert without_deadline(element.encode()) == expected.encode()


@given(st.dictionaries(st.text(max_size=8), JSON), JSON, st.integers(0, 4), st.booleans())
def test_what_is_left_means_the_same(others: dict[str, Any], deadline: Any, at: int, spaced: bool) -> None:
    """SABIR-DEAD-6."""
    others.pop("deadline", None)
    items = list(others.items())
    whole = dict([*items[:at], ("deadline", deadline), *items[at:]])
    text = json.dumps(whole, indent=2 if spaced else None, ensure_ascii=spaced)
    assert json.loads(without_deadline(text.encode())) == others


# ---------------------------------------------------------------------------------------------------- reading


def test_they_are_read_newest_last(dead: DeadLetters, peer: Peer) -> None:
    assert (dead.count(), dead.read(), dead.read(5), dead.get(ID)) == (0, [], [], None)
    raws = [written(number) for number in range(25)]
    peer.raw.rpush(peer.dead, *raws)
    assert dead.count() == 25
    assert [letter.raw for letter in dead] == [letter.raw for letter in dead.read()] == raws
    assert [letter.raw for letter in dead.read(3)] == raws[-3:]
    assert len(dead.read(1000)) == 25
    with pytest.raises(ValueError, match="limit: expected an integer > 0, got 0"):
        dead.read(0)


def test_one_is_found_by_its_id_or_its_digest(dead: DeadLetters, peer: Peer) -> None:
    raws = [written(1), b"hello", written(2), written(3, b"x")]
    peer.raw.rpush(peer.dead, *raws)
    assert dead.get(ID) == decode(raws[2])
    assert dead.get(hashlib.sha256(b"hello").hexdigest()) == decode(b"hello")
    assert dead.get("0" * 64) is None


def test_a_foreign_entry_is_listed_and_can_be_dropped(dead: DeadLetters, peer: Peer) -> None:
    peer.raw.rpush(peer.dead, written(1), b"\xff{", written(2))
    one, foreign, two = dead.read()
    assert [letter.is_letter for letter in (one, foreign, two)] == [True, False, True]
    with pytest.raises(ValueError, match="expected a request that can be sent again, but it is no dead letter"):
        dead.retry(foreign)
    assert dead.drop(foreign)
    assert dead.read() == [one, two]


def test_dropping_all_in_a_loop_leaves_none(dead: DeadLetters, peer: Peer) -> None:
    peer.raw.rpush(peer.dead, *(written(number) for number in range(250)))
    assert sum(dead.drop(letter) for letter in dead) == 250
    assert dead.count() == 0


def test_dropping_some_in_a_loop_leaves_the_others(dead: DeadLetters, peer: Peer) -> None:
    peer.raw.rpush(peer.dead, *(written(number) for number in range(250)))
    for number, letter in enumerate(dead):
        if number % 3:
            dead.drop(letter)
    assert [letter.raw for letter in dead] == [written(number) for number in range(0, 250, 3)]


@pytest.mark.parametrize("trimmed", [1, 5, 9, 10, 11, 60])
def test_none_is_left_out_or_read_twice_when_the_list_moves(dead: DeadLetters, peer: Peer, trimmed: int) -> None:
    """It is bounded: what workers add takes the oldest away (SABIR-DEAD-3)."""
    raws = [written(number) for number in range(400)]
    peer.raw.rpush(peer.dead, *raws[:300])
    read = []
    for letter in dead:
        read.append(letter.raw)
        if len(read) in (7, 100, 101):
            peer.raw.rpush(peer.dead, *raws[300:310])
            peer.raw.ltrim(peer.dead, trimmed, -1)
    kept = [raw for raw in read if raw in raws[3 * trimmed : 300]]
    assert kept == raws[3 * trimmed : 300]
    assert len(read) <= 300


def test_equal_letters_are_all_read(dead: DeadLetters, peer: Peer) -> None:
    peer.raw.rpush(peer.dead, *[b"x"] * 30, written(1), *[b"x"] * 30)
    assert len(dead.read()) == 61


def test_large_letters_are_read_few_at_a_time(dead: DeadLetters, peer: Peer) -> None:
    """Redis has to hold what it answers: a list of large letters is not asked for at once."""
    peer.raw.rpush(peer.dead, *(written(number, b"x" * 1_000_000) for number in range(40)))
    with peer.raw.monitor() as monitor:
        assert len(dead.read()) == 40
        peer.raw.llen("the end")
        seen = []
        for one in monitor.listen():
            if one["command"] == "LLEN the end":
                break
            seen.append(one["command"].split())
    pages = [
        int(last) - int(first) + 1 for name, key, first, last in (c for c in seen if c[0] == "LRANGE") if key == peer.dead
    ]
    assert pages[0] <= 10
    assert max(pages[1:]) < 5


# ---------------------------------------------------------------------------------------------------- dropping, retrying


def test_who_comes_second_is_told(dead: DeadLetters, peer: Peer) -> None:
    """SABIR-DEAD-6."""
    peer.raw.rpush(peer.dead, written(1), written(2))
    one, two = dead.read()
    assert (dead.drop(one), dead.drop(one), dead.retry(one)) == (True, False, False)
    assert (dead.retry(two), dead.retry(two), dead.drop(two)) == (True, False, False)
    assert peer.raw.llen(peer.requests) == 1
    assert dead.count() == 0


def test_a_request_is_sent_as_it_was_but_for_its_deadline(dead: DeadLetters, peer: Peer) -> None:
    """SABIR-DEAD-6."""
    attempts = f"{peer.prefix}attempts:{ID}"
    spaced = b'{"v":1,"id":"%s", "n":123456789012345678901, "body":{"jsonrpc":"2.0","method":"add"}}' % ID.encode()
    peer.raw.set(attempts, 3)
    peer.push(b"before")
    peer.raw.rpush(peer.dead, written(1, NOTIFICATION), written(2, CALL), written(3, spaced))
    for letter in dead:
        assert dead.retry(letter)
        assert not peer.raw.exists(attempts)
    stripped = NOTIFICATION.replace(b',"deadline":1764000005000', b"")
    assert peer.raw.lrange(peer.requests, 0, -1) == [b"before", stripped, CALL, spaced]


@pytest.mark.parametrize(
    ("element", "why"),
    [
        (b"hello", "expected UTF-8 JSON"),
        (b"\xff", "expected UTF-8 JSON"),
        (b'{"v":1}', "id: expected"),
        (NOTIFICATION.replace(b'"v":1', b'"v":2'), "v: expected 1, got 2"),
        (NOTIFICATION.replace(b'"add"', b'""'), "body.method: expected"),
        (b"x" * (KEPT_BYTES + 1), f"only {KEPT_BYTES} of its {KEPT_BYTES + 1} bytes were kept"),
    ],
    ids=["no JSON", "no text", "no id", "version 2", "no method", "cut"],
)
def test_what_is_no_request_is_not_sent(dead: DeadLetters, peer: Peer, element: bytes, why: str) -> None:
    peer.raw.rpush(peer.dead, written(1, element))
    (letter,) = dead.read()
    with pytest.raises(ValueError, match=f"{letter.digest[:8]}: expected a request that can be sent again, but {why}"):
        dead.retry(letter)
    assert (dead.count(), peer.raw.llen(peer.requests)) == (1, 0)


def test_a_script_that_redis_forgot_is_sent_as_text(dead: DeadLetters, peer: Peer) -> None:
    """SABIR-SCRIPT-1."""
    peer.raw.rpush(peer.dead, *(written(number) for number in range(3)))
    for letter in dead:
        peer.raw.script_flush()
        assert dead.retry(letter)
    assert peer.raw.llen(peer.requests) == 3


def test_what_a_worker_could_not_run_runs_when_it_is_sent_again(
    dead: DeadLetters, peer: Peer, url: str, namespace: str
) -> None:
    """SABIR-DEAD-2, SABIR-DEAD-6: its deadline had come, its method was not there yet, its handler raised."""
    seen: list[int] = []
    broken = True
    server = Server("calc", url, namespace=namespace)

    def note(number: int) -> None:
        if broken:
            raise RuntimeError("broken")
        seen.append(number)

    server.register("note", note)
    with server:
        peer.push(
            peer.element("note", [1], call=False, deadline=1),
            peer.element("late", [2], call=False),
            peer.element("note", [3], call=False),
        )
        eventually(lambda: dead.count() == 3)
        names = {letter.method: type(letter.error) for letter in dead}
        assert names["late"] is MethodNotFound
        assert names["note"] is InternalError
        broken = False
        server.register("late", note)
        assert sum(dead.retry(letter) for letter in dead) == 3
        eventually(lambda: len(seen) == 3)
    assert sorted(seen) == [1, 2, 3]
    assert dead.count() == 0


def test_a_loop_that_retries_what_fails_again_ends(dead: DeadLetters, peer: Peer, url: str, namespace: str) -> None:
    with Server("calc", url, namespace=namespace):
        peer.push(*(peer.element("none", call=False) for _ in range(30)))
        eventually(lambda: dead.count() == 30)
        retried = 0
        for letter in dead:
            retried += dead.retry(letter)
            eventually(lambda: dead.count() == 30)
        assert retried == 30


def test_what_recovery_kept_is_read(dead: DeadLetters, peer: Peer) -> None:
    """SABIR-RECOVER-4, SABIR-RECOVER-5."""
    script = (PROTOCOL / "scripts/heartbeat.lua").read_text()
    poison = peer.element("add", [1], call=True, idempotent=True)
    binary = b"\xff" * 100_000
    notification = peer.element("add", ["é/\x7f\\"], call=False)
    peer.raw.rpush(f"{peer.prefix}active:w.1", poison, binary, notification)
    peer.raw.set(f"{peer.prefix}attempts:{json.loads(poison)['id']}", 2)
    peer.raw.zadd(peer.leases, {"w.1": 1, "w.2": 2**52})
    peer.raw.eval(script, 4, peer.requests, peer.leases, peer.alive, peer.dead, "w.2", "1")
    letters = dead.read()
    assert [letter.element for letter in letters] == [poison, binary[:65_536], notification]
    assert [(letter.kind, letter.is_cut, letter.size) for letter in letters[:2]] == [
        ("call", False, len(poison)),
        (None, True, len(binary)),
    ]
    assert {type(letter.error) for letter in letters} == {WorkerLost}
    assert [dead.retry(letter) for letter in (letters[0], letters[2])] == [True, True]
    assert not peer.raw.exists(f"{peer.prefix}attempts:{json.loads(poison)['id']}")
    assert peer.raw.lrange(peer.requests, 0, -1) == [poison, notification]


# ---------------------------------------------------------------------------------------------------- trouble


def test_names_are_checked_before_anything_is_sent() -> None:
    """SABIR-KEY-2."""
    with pytest.raises(ValueError, match="service: expected"):
        DeadLetters("a}:requests")
    with pytest.raises(ValueError, match="namespace: expected"):
        DeadLetters("calc", namespace="")


def test_a_redis_that_is_not_there() -> None:
    dead = DeadLetters("calc", f"redis://127.0.0.1:{free_port()}/0")
    for ask in (dead.count, dead.read, dead.now_ms):
        with pytest.raises(NotQueued, match="no connection to Redis"):
            ask()


def test_an_injected_client_s_settings_are_used(url: str, namespace: str, peer: Peer) -> None:
    peer.raw.rpush(peer.dead, written(1))
    with (
        redis.Redis.from_url(url, decode_responses=True) as client,
        DeadLetters("calc", redis=client, namespace=namespace) as dead,
    ):
        assert dead.read() == [decode(written(1))]


def test_a_connection_that_was_closed_while_idle_is_replaced(dead: DeadLetters, peer: Peer) -> None:
    """SABIR-LOST-6."""
    peer.raw.rpush(peer.dead, written(1))
    (letter,) = dead.read()
    assert dead._link.who is not None
    peer.raw.execute_command("CLIENT", "KILL", "ID", dead._link.who[0])
    assert dead.retry(letter)


def test_nothing_is_sent_again_when_the_answer_is_lost(proxy: Proxy, namespace: str, peer: Peer) -> None:
    """It may have been done; who reads them again sees whether it was."""
    peer.raw.rpush(peer.dead, written(1), written(2))
    with DeadLetters("calc", proxy.url, namespace=namespace) as dead:
        one, two = dead.read()
        proxy.cut(b"LREM")
        with pytest.raises(ConnectionLost, match="lost before its answer"):
            dead.drop(one)
        assert dead.read() == [two]
        proxy.cut(b"EVAL")
        with pytest.raises(ConnectionLost):
            dead.retry(two)
        assert dead.count() == 1 - peer.raw.llen(peer.requests)


def test_what_redis_refuses_is_told(dead: DeadLetters, peer: Peer) -> None:
    """SABIR-DEAD-6: a letter whose request can't be pushed stays."""
    peer.raw.rpush(peer.dead, written(1))
    peer.raw.set(peer.requests, "no list")
    (letter,) = dead.read()
    with pytest.raises(NotQueued, match=r"Redis refused .*WRONGTYPE"):
        dead.retry(letter)
    assert dead.read() == [letter]
    peer.raw.delete(peer.dead)
    peer.raw.set(peer.dead, "no list")
    with pytest.raises(NotQueued, match="WRONGTYPE"):
        dead.read()


def test_the_port_s_script_is_the_protocol_s() -> None:
    """SABIR-DEAD-6."""
    copy = Path(decode.__code__.co_filename).parent / "scripts/retry.lua"
    assert copy.read_bytes() == (PROTOCOL / "scripts/retry.lua").read_bytes()


def test_letters_of_every_size_keep_their_bytes(dead: DeadLetters, peer: Peer) -> None:
    raws = [written(number, base64.b64encode(b"x" * number)) for number in (0, 1, 1_000_000, 5, 6)] + [b""]
    peer.raw.rpush(peer.dead, *raws)
    assert [letter.raw for letter in dead] == raws
