"""What mutants of both roles share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sabir import commands

from . import Original, wrap


def sending(step: str, change: Callable[[list[Any]], list[Any]]) -> None:
    """Have the port send other commands for a step."""

    @wrap(commands, step)
    def send(original: Original[list[Any]], *args: Any, **kwargs: Any) -> list[Any]:
        return change(original(*args, **kwargs))


def first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """What json.loads() makes of an object: the first of duplicate names wins."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        found.setdefault(name, value)
    return found
