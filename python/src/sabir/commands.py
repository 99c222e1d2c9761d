"""The Redis commands of each step, as data: a list of commands, each a tuple of arguments. Pure.

A step's commands go out in one write. Times go in in milliseconds; Redis's block times come out in seconds.
"""

from __future__ import annotations

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

_MULTI: Final[Command] = ("MULTI",)
_EXEC: Final[Command] = ("EXEC",)


def _seconds(block_ms: float) -> str:
    """A block time for Redis. Raises ValueError under 1 ms (SABIR-TRANSPORT-1)."""
    if not block_ms >= 1:
        raise ValueError(f"block time: expected at least 1 ms, got {block_ms!r}")
    return f"{block_ms / 1000:.3f}".rstrip("0").rstrip(".")


# ---------------------------------------------------------------------------------------------------- client


def push(keys: Keys, elements: Sequence[bytes]) -> Commands:
    """Append requests to the queue, all in one RPUSH (SABIR-CALL-1)."""
    return [("RPUSH", keys.requests, *elements)]


def wait(keys: Keys, token: str, block_ms: float) -> Commands:
    """Wait for a reply for at most ``block_ms``. Raises ValueError under 1 ms."""
    return [("BLPOP", keys.reply(token), _seconds(block_ms))]


def drain(keys: Keys, token: str, count: int) -> Commands:
    """Read what has gathered behind a reply, without waiting; ``count``: at most so many."""
    return [("LPOP", keys.reply(token), str(count))]


def clock() -> Commands:
    """Ask Redis's clock (SABIR-TIME-2)."""
    return [("TIME",)]


# ---------------------------------------------------------------------------------------------------- worker


def heartbeat(keys: Keys, worker: str, lease_ends: int) -> Commands:
    """Ask the clock, renew the lease and ``alive`` (SABIR-LEASE-1). ``lease_ends``: ms of Redis's clock."""
    return [
        _MULTI,
        ("TIME",),
        ("ZADD", keys.leases, str(lease_ends), worker),
        ("SET", keys.alive, "1", "PX", str(LEASE_MS)),
        _EXEC,
    ]


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


def goodbye(keys: Keys, worker: str) -> Commands:
    """Remove the lease; the hand is empty (SABIR-STOP-4)."""
    return [("ZREM", keys.leases, worker)]
