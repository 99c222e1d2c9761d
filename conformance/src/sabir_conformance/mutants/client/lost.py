"""Mutants of the client: lost connections, and what it logs."""

from __future__ import annotations

import logging
import threading
from typing import Any

from sabir import _link, commands, errors
from sabir.client import _Exchange, _Line

from .. import mutant, wrap


@mutant("SABIR-LOST-1", "client/trouble/push-cut-after", "SABIR-LOST-2", "SABIR-CALL-2")
def pushes_again() -> None:
    """A push without an answer is sent again."""

    @wrap(_Exchange, "push")
    def push(original: Any, self: Any, *args: Any) -> Any:
        try:
            return original(self, *args)
        except errors.ConnectionLost:
            self._line.connect(self._ends)
            return original(self, *args)


@mutant("SABIR-LOST-2", "client/trouble/wait-cut", "SABIR-LOST-1", "SABIR-TOKEN-1", "SABIR-CALL-2")
def does_not_connect_again() -> None:
    """A connection that is lost while a call waits ends the call."""
    state = threading.local()

    @wrap(_Exchange, "collect")
    def collect(original: Any, *args: Any) -> Any:
        state.waits = True
        try:
            return original(*args)
        except errors.ConnectionLost as lost:
            return lost
        finally:
            state.waits = False

    @wrap(_link.Link, "open")
    def open_link(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        if getattr(state, "waits", False):
            raise errors.ConnectionLost("lost")
        original(self, *args, **kwargs)


@mutant("SABIR-LOST-6", "client/trouble/idle-cut")
def trusts_an_idle_connection() -> None:
    """A connection that was closed while it was idle is used again without a look."""

    @wrap(_link.Link, "is_stale")
    def is_stale(original: Any, *args: Any) -> bool:
        return False


@mutant("SABIR-LOST-5", "client/trouble/push-refused-oom", "SABIR-CALL-2", "SABIR-TRANSPORT-2")
def calls_a_refusal_lost() -> None:
    """A push that Redis refused ends with ConnectionLost."""
    errors.NotQueued = errors.ConnectionLost  # type: ignore[misc, assignment]


@mutant("SABIR-LOST-5", "client/trouble/never-there", "SABIR-CALL-2")
def calls_a_redis_that_is_away_a_time_out() -> None:
    """A time-out before anything could be sent ends with CallTimeout."""

    @wrap(_Line, "connect")
    def connect(original: Any, *args: Any) -> None:
        try:
            original(*args)
        except errors.NotQueued as error:
            raise errors.CallTimeout(str(error)) from error


@mutant("SABIR-SECURITY-1", "client/requests/payload-not-logged")
def logs_requests() -> None:
    """Every request is logged."""

    @wrap(commands, "push")
    def push(original: Any, place: Any, elements: Any) -> Any:
        logging.getLogger("sabir").warning("pushing %s", elements)
        return original(place, elements)


@mutant("SABIR-LOST-1", "client/trouble/push-cut-after-idempotent")
def pushes_idempotent_calls_again() -> None:
    """The push of an idempotent call without an answer is sent again."""

    @wrap(_Exchange, "push")
    def push(original: Any, self: Any, *args: Any) -> Any:
        try:
            return original(self, *args)
        except errors.ConnectionLost:
            if not self._idempotent:
                raise
            self._line.connect(self._ends)
            return original(self, *args)
