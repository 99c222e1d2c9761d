"""Mutants of the client: its connections, its keys, its names."""

from __future__ import annotations

from typing import Any

from sabir import _link, commands, keys
from sabir import client as shell

from .. import Original, mutant, wrap
from ..both import sending
from .shared import checking


@mutant("SABIR-TRANSPORT-1", "client/requests/block-time", "SABIR-CALL-2", "SABIR-CALL-6")
def waits_for_ever() -> None:
    """A wait blocks without an end."""
    sending("wait", lambda cmds: [(*cmds[0][:-1], "0")])


@mutant("SABIR-TRANSPORT-1", "client/requests/block-time-of-a-short-call")
def waits_for_less_than_a_millisecond() -> None:
    """What is left of a time-out becomes a block time, however little it is."""

    @wrap(commands, "wait")
    def wait(original: Original[list[Any]], place: Any, token: str, block_ms: float) -> list[Any]:
        cmds = original(place, token, block_ms)
        return [(*cmds[0][:-1], "0.0005")] if block_ms <= 1 else cmds


@mutant("SABIR-TRANSPORT-2", "client/trouble/wait-silence", "SABIR-CALL-2", "SABIR-LOST-1")
def waits_on_silence_for_ever() -> None:
    """An answer is awaited for ever."""

    @wrap(_link.Link, "_patience")
    def patience(original: Any, self: Any, timeout: float) -> None:
        original(self, 3600.0)


@mutant("SABIR-KEY-1", "client/requests/only-its-keys")
def asks_for_a_second_key() -> None:
    """Whether anybody serves is asked of two keys, of which one is not in the table."""
    sending("ask_alive", lambda cmds: [(*cmds[0], cmds[0][1].removesuffix("alive") + "attempts:control")])


@mutant("SABIR-KEY-2", "client/refusals/service-dot")
def takes_any_service() -> None:
    """A service may have any name."""
    checking("service")


@mutant("SABIR-KEY-2", "client/refusals/namespace-brace")
def takes_any_namespace() -> None:
    """A namespace may have any name."""
    checking("namespace")


@mutant("SABIR-KEY-2", "client/refusals/method-space", "client/refusals/many-with-a-bad-one")
def takes_any_method() -> None:
    """A method may have any name."""
    checking("method")


@mutant("SABIR-KEY-2", "client/refusals/name-dot")
def takes_any_client_name() -> None:
    """A client may have any name."""
    checking("client")

    @wrap(keys.Keys, "reply")
    def reply(original: Original[str], self: keys.Keys, token: str) -> str:
        return self.requests.removesuffix("requests") + "reply:" + token


@mutant("SABIR-TOKEN-1", "client/requests/token-for-each-connection", "SABIR-REPLY-4", "SABIR-CALL-*", "SABIR-ENVELOPE-2")
def one_token_for_all() -> None:
    """All connections of a client wait on one token."""
    made: dict[str, str] = {}

    @wrap(shell, "new_token")
    def new_token(original: Original[str], name: str) -> str:
        return made.setdefault(name, original(name))


@mutant("SABIR-TOKEN-1", "client/requests/token")
def token_of_32_bits() -> None:
    """A token has 32 random bits."""

    @wrap(shell, "new_token")
    def new_token(original: Original[str], name: str) -> str:
        return original(name)[:-8]
