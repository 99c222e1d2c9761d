"""Mutants of the client: how it reads replies, and removes what it has read."""

from __future__ import annotations

from typing import Any

from sabir import commands
from sabir.client import _Exchange, _Line

from .. import mutant, wrap
from ..both import sending


@mutant("SABIR-WAIT-1", "client/waiting/cut-behind-the-look", "SABIR-LOST-2")
def pops_replies() -> None:
    """A wait takes the reply from its list."""
    sending("wait", lambda cmds: [("BLPOP", cmds[0][1], cmds[0][-1])])

    @wrap(_Exchange, "_read")
    def read(original: Any, *args: Any) -> Any:
        answer = original(*args)
        return answer[1] if isinstance(answer, list) else answer


@mutant("SABIR-WAIT-1", "client/waiting/cut-within-the-reply", "SABIR-LOST-2")
def removes_with_the_look() -> None:
    """A reply is removed in the same write as the look."""
    sending("wait", lambda cmds: [*cmds, ("LPOP", cmds[0][1])])
    sending("forget_one", lambda cmds: commands.clock())

    @wrap(_Exchange, "_read")
    def read(original: Any, self: Any, timeout: float) -> Any:
        answer = original(self, timeout)
        if self._link.unread == 1:
            self._link.read(timeout)
        return answer


@mutant("SABIR-WAIT-2", "client/waiting/removed")
def leaves_what_it_has_read() -> None:
    """What was read is left to expire."""
    sending("forget", lambda cmds: [])


@mutant("SABIR-WAIT-2", "client/waiting/removed-many")
def leaves_the_last_of_many() -> None:
    """Of many replies the last is left to expire."""

    @wrap(_Exchange, "collect")
    def collect(original: Any, self: Any, *args: Any) -> Any:
        are_many = len(self.missing) > 1
        trouble = original(self, *args)
        if are_many:
            self._line.forget = []
        return trouble


@mutant("SABIR-WAIT-2", "client/waiting/removed-when-closed")
def closes_at_once() -> None:
    """A client that closes leaves what it has read to expire."""

    @wrap(_Line, "close")
    def close(original: Any, self: Any) -> None:
        self.link.close()
