"""The Redis commands of each step, as data: a list of commands, each a tuple of arguments. Pure.

A step's commands go out in one write. Times go in in milliseconds; Redis's block times come out in seconds.
What is rare and has to be atomic is a script: sent by its digest, and as_eval() when Redis does not know that.
"""

from __future__ import annotations

import hashlib
import pkgutil
from collections.abc import Iterable, Sequence
from typing import Final

from .keys import Keys

Command = tuple[str | bytes, ...]
Commands = list[Command]

LEASE_MS: Final = 10_000
HEARTBEAT_MS: Final = 3_000
TAKE_BLOCK_MS: Final = 2_000
REPLY_TTL_MS: Final = 60_000
DEAD_LETTERS: Final = 1_000
ASK_MS: Final = 3_000
"""How often a waiting client asks for ``alive``, at least (SABIR-ALIVE-3)."""
SEARCHED: Final = 10_000
"""The longest queue that a waiting client searches for its own element (SABIR-ALIVE-4)."""

_MULTI: Final[Command] = ("MULTI",)
_EXEC: Final[Command] = ("EXEC",)


def _seconds(block_ms: float) -> str:
    """A block time for Redis. Raises ValueError under 1 ms (SABIR-TRANSPORT-1)."""
    if not block_ms >= 1:
        raise ValueError(f"block time: expected at least 1 ms, got {block_ms!r}")
    return f"{block_ms / 1000:.3f}".rstrip("0").rstrip(".")


_TEXTS: Final[dict[str, str]] = {}
"""SHA-1 → script."""


def _script(name: str) -> str:
    """The SHA-1 of ``scripts/<name>.lua``, by which Redis knows it."""
    data = pkgutil.get_data(__package__, f"scripts/{name}.lua")  # importlib.resources would take 12 ms to import
    if data is None:
        raise ImportError(f"{__package__} was imported in a way that can't read scripts/{name}.lua")
    digest = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    _TEXTS[digest] = data.decode()
    return digest


_HEARTBEAT: Final = _script("heartbeat")
_GOODBYE: Final = _script("goodbye")
_RETRY: Final = _script("retry")


def as_eval(cmds: Commands) -> Commands:
    """The same with the scripts' texts in place of their digests (SABIR-SCRIPT-1)."""
    return [("EVAL", _TEXTS[str(c[1])], *c[2:]) if c[0] == "EVALSHA" else c for c in cmds]


def is_noscript(answer: object) -> bool:
    """Whether Redis did not know a script by its digest: nothing was executed (SABIR-SCRIPT-1)."""
    # redis-py takes the code off the text of this one
    return isinstance(answer, Exception) and (
        type(answer).__name__ == "NoScriptError" or str(answer).startswith("NOSCRIPT")
    )


# ---------------------------------------------------------------------------------------------------- client


def push(keys: Keys, elements: Sequence[bytes]) -> Commands:
    """Append requests to the queue, all in one RPUSH (SABIR-CALL-1)."""
    return [("RPUSH", keys.requests, *elements)]


def wait(keys: Keys, token: str, block_ms: float) -> Commands:
    """Look at the first reply, and wait for it for at most ``block_ms``; it stays where it is (SABIR-WAIT-1).

    Raises ValueError under 1 ms.
    """
    key = keys.reply(token)
    return [("BLMOVE", key, key, "LEFT", "LEFT", _seconds(block_ms))]


def drain(keys: Keys, token: str, count: int) -> Commands:
    """Read what has gathered behind the first reply, without waiting; ``count``: at most so many (SABIR-WAIT-1)."""
    return [("LRANGE", keys.reply(token), "1", str(count))]


def forget(keys: Keys, token: str) -> Commands:
    """Remove all replies to a token whose calls have ended (SABIR-WAIT-2)."""
    return [("DEL", keys.reply(token))]


def forget_one(keys: Keys, token: str, reply: bytes) -> Commands:
    """Remove a reply that was read (SABIR-WAIT-2)."""
    return [("LREM", keys.reply(token), "1", reply)]


def forget_first(keys: Keys, token: str, count: int) -> Commands:
    """Remove the first ``count`` replies, which were read (SABIR-WAIT-2)."""
    return [("LTRIM", keys.reply(token), str(count), "-1")]


def ask_alive(keys: Keys) -> Commands:
    """Ask whether anybody serves (SABIR-ALIVE-1, -3)."""
    return [("EXISTS", keys.alive)]


def take_back(keys: Keys, element: bytes, id: str | None = None) -> Commands:
    """Remove a request that was just pushed (SABIR-ALIVE-2, SABIR-QUEUE-1).

    ``id``: of an idempotent one, to ask behind it whether it was delivered before; None: of any other.
    """
    asked: Commands = [("EXISTS", keys.attempts(id))] if id is not None else []
    return [("LREM", keys.requests, "-1", element), *asked]


def look_alive(keys: Keys) -> Commands:
    """Look whether anybody serves, and how long the queue is, before judge() or unwatch() (SABIR-ALIVE-4)."""
    return [("WATCH", keys.alive), ("EXISTS", keys.alive), ("LLEN", keys.requests)]


def unwatch() -> Commands:
    """End a look after which nothing is judged (SABIR-ALIVE-4)."""
    return [("UNWATCH",)]


def judge(keys: Keys, token: str, calls: Iterable[tuple[str, bytes]], searches: bool) -> Commands:
    """Take back calls (id, element) that nobody serves any more, and read the replies, unless ``alive`` is back.

    ``searches``: whether the queue is short enough to be searched for them (SABIR-ALIVE-4).
    """
    asked: Commands = []
    for id, element in calls:
        asked += take_back(keys, element, id) if searches else [("EXISTS", keys.attempts(id))]
    return [_MULTI, *asked, ("LRANGE", keys.reply(token), "0", "-1"), _EXEC]


def clock() -> Commands:
    """Ask Redis's clock (SABIR-TIME-2)."""
    return [("TIME",)]


# ---------------------------------------------------------------------------------------------------- worker


def heartbeat(keys: Keys, worker: str, judges: bool) -> Commands:
    """Ask the clock, renew the lease and ``alive``, recover what lost workers left (SABIR-LEASE-1, SABIR-RECOVER-1).

    ``judges``: whether this worker may recover (SABIR-RECOVER-7).
    """
    of = (keys.requests, keys.leases, keys.alive, keys.dead)
    return [("EVALSHA", _HEARTBEAT, str(len(of)), *of, worker, "1" if judges else "0")]


def memory() -> Commands:
    """Ask how Redis handles its memory (SABIR-TRANSPORT-5)."""
    return [("INFO", "memory")]


def take(keys: Keys, worker: str, lease_ends: int, block_ms: float) -> Commands:
    """Renew the lease and wait for an element for at most ``block_ms`` (SABIR-WORKER-2, SABIR-LEASE-2).

    Raises ValueError under 1 ms.
    """
    return [
        ("ZADD", keys.leases, str(lease_ends), worker),
        ("BLMOVE", keys.requests, keys.active(worker), "LEFT", "RIGHT", _seconds(block_ms)),
    ]


def take_more(keys: Keys, worker: str) -> Commands:
    """Take one element more, without waiting (SABIR-WORKER-2)."""
    return [("LMOVE", keys.requests, keys.active(worker), "LEFT", "RIGHT")]


def reply(keys: Keys, worker: str, token: str, reply: bytes, element: bytes) -> Commands:
    """Answer a call and acknowledge its element, in one transaction (SABIR-REPLY-3)."""
    return replies(keys, worker, [(token, reply, element)])


def replies(keys: Keys, worker: str, answers: Iterable[tuple[str, bytes, bytes]]) -> Commands:
    """Several answers (token, reply, element) in one transaction, those to one token in one RPUSH (SABIR-REPLY-3)."""
    by_token: dict[str, list[bytes]] = {}
    acknowledged: Commands = []
    active = keys.active(worker)
    for token, reply, element in answers:
        by_token.setdefault(token, []).append(reply)
        acknowledged.append(("LREM", active, "1", element))
    pushed: Commands = []
    for token, elements in by_token.items():
        key = keys.reply(token)
        pushed += [("RPUSH", key, *elements), ("PEXPIRE", key, str(REPLY_TTL_MS))]
    return [_MULTI, *pushed, *acknowledged, _EXEC]


def acknowledge(keys: Keys, worker: str, element: bytes) -> Commands:
    """Remove a notification that was run from the hand (SABIR-DEAD-4)."""
    return [("LREM", keys.active(worker), "1", element)]


def bury(keys: Keys, worker: str, letter: bytes, element: bytes) -> Commands:
    """Keep a dead letter and remove its element from the hand, in one transaction (SABIR-DEAD-3)."""
    return [
        _MULTI,
        ("RPUSH", keys.dead, letter),
        ("LTRIM", keys.dead, str(-DEAD_LETTERS), "-1"),
        ("LREM", keys.active(worker), "1", element),
        _EXEC,
    ]


def read_hand(keys: Keys, worker: str) -> Commands:
    """Read the hand, after a lost connection (SABIR-LOST-3, -4)."""
    return [("LRANGE", keys.active(worker), "0", "-1")]


def give_back(keys: Keys, worker: str) -> Commands:
    """Move the newest element of the hand back to the head of the queue (SABIR-STOP-3)."""
    return [("LMOVE", keys.active(worker), keys.requests, "RIGHT", "LEFT")]


def ask_attempts(keys: Keys, id: str) -> Commands:
    """Ask how many deliveries of a request were lost (SABIR-ATTEMPT-1)."""
    return [("GET", keys.attempts(id))]


def goodbye(keys: Keys, worker: str) -> Commands:
    """Give up the lease if the hand is empty; the last one takes ``alive`` along (SABIR-STOP-5)."""
    of = (keys.leases, keys.alive, keys.active(worker))
    return [("EVALSHA", _GOODBYE, str(len(of)), *of, worker)]


# ---------------------------------------------------------------------------------------------------- dead letters


def count_dead(keys: Keys) -> Commands:
    """Count the dead letters."""
    return [("LLEN", keys.dead)]


def read_dead(keys: Keys, first: int, last: int) -> Commands:
    """Read the dead letters from position ``first`` to ``last``, both included; negative: from the tail."""
    return [("LRANGE", keys.dead, str(first), str(last))]


def retry_dead(keys: Keys, letter: bytes, element: bytes, id: str) -> Commands:
    """Push ``element``, the request ``id`` of a dead letter, in place of the letter (SABIR-DEAD-6)."""
    of = (keys.dead, keys.requests, keys.attempts(id))
    return [("EVALSHA", _RETRY, str(len(of)), *of, letter, element)]


def drop_dead(keys: Keys, letter: bytes) -> Commands:
    """Remove a dead letter."""
    return [("LREM", keys.dead, "1", letter)]
