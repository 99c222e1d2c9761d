"""Mutants of the client: the errors that it raises, and the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sabir import _link, errors

from .. import Original, mutant, wrap


def raising(change: Callable[..., Any]) -> None:
    """Have the client make another error of what a reply says: of code, message, data and the application's classes."""

    @wrap(errors, "from_wire")
    def from_wire(original: Any, code: int, message: str, data: Any, own: Any) -> Any:
        return change(original, code, message, data, own)


@mutant("SABIR-ERROR-4", "vectors/replies/MethodNotFound")
def raises_the_base_class() -> None:
    """Every error of the table is the base class."""
    raising(
        lambda make, code, *rest: errors.SabirError(rest[0], code, rest[1]) if code in errors.TABLE else make(code, *rest)
    )


@mutant("SABIR-ERROR-4", "vectors/replies/application-error", "client/replies/error", "SABIR-ERROR-5")
def raises_the_base_class_for_the_application_s() -> None:
    """An application error is the base class."""
    raising(
        lambda make, code, *rest: (
            make(code, *rest) if code in errors.RESERVED else errors.SabirError(rest[0], code, rest[1])
        )
    )


@mutant("SABIR-ERROR-4", "vectors/replies/unknown-code-of-the-reserved-range")
def takes_unknown_codes_for_the_application_s() -> None:
    """A code of the reserved range that it does not know is an application error."""
    raising(
        lambda make, code, *rest: (
            errors.ApplicationError(rest[0], code, rest[1])
            if code in errors.RESERVED and code not in errors.TABLE
            else make(code, *rest)
        )
    )


@mutant("SABIR-ERROR-5", "client/replies/error", "SABIR-ERROR-4")
def loses_the_data() -> None:
    """The data of an error is lost."""
    raising(lambda make, code, message, data, own: make(code, message, errors.MISSING, own))


@mutant("SABIR-ERROR-5", "client/replies/error", "SABIR-ERROR-4")
def decorates_the_message() -> None:
    """The message of an error gets the code in front."""
    raising(lambda make, code, message, data, own: make(code, f"{code}: {message}", data, own))


@mutant("SABIR-TIME-1", "client/requests/clock-ahead")
def calls_on_its_own_clock() -> None:
    """The machine's clock is used, not Redis's."""

    @wrap(_link.Clock, "now_ms")
    def now_ms(original: Original[int], self: Any) -> int:
        return int(time.time() * 1000)


@mutant("SABIR-TIME-2", "client/requests/asks-the-clock")
def asks_the_clock_after_the_first_call() -> None:
    """TIME is not asked when connecting: the machine's clock has to do."""

    @wrap(_link.Link, "run")
    def run(original: Original[list[Any]], self: Any, cmds: Any, timeout: float) -> list[Any]:
        if cmds[0] == ("TIME",):
            now = time.time()
            return [[str(int(now)).encode(), b"0"], *original(self, cmds[1:], timeout)] if cmds[1:] else [[b"1", b"0"]]
        return original(self, cmds, timeout)
