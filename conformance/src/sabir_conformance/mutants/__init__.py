"""Mutants: the Python reference with one rule broken at a time. They are the proof that the suite can fail.

A mutant is a small function that puts something wrong into the modules of ``sabir``; the library has no switch for it. It
names its rule and the case that has to fail with it. ``python -m sabir_conformance.mutants DRIVER ROLE`` runs the Python
driver with the mutant that SABIR_MUTANT names; run.py runs them all.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

VARIABLE: Final = "SABIR_MUTANT"
"""The environment variable that names the mutant to a driver."""
CONTROLS: Final = {"server": "server/values/integer", "client": "client/requests/call"}
"""The case that has to pass with every mutant of the role."""

AREAS: Final = (
    "server.names",
    "server.requests",
    "server.replies",
    "server.hand",
    "server.times",
    "server.dead",
    "server.ends",
    "server.recovery",
    "server.delivery",
    "client.names",
    "client.requests",
    "client.calls",
    "client.errors",
    "client.lost",
    "client.service",
    "client.waiting",
)
"""The modules that register mutants, in the order in which they are listed."""

Change = Callable[[], None]
T = TypeVar("T")
Original = Callable[..., T]
"""What wrap() gives to a function first: that in whose place it stands."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A broken rule."""

    name: str
    rule: str
    killed_by: str
    """The case that has to fail with it."""
    about: str
    also: tuple[str, ...]
    """Rules, or patterns of case ids, whose cases may fail with it too."""
    apply: Change

    @property
    def role(self) -> str:
        """What is broken: server or client."""
        return "server" if self.killed_by.startswith(("server/", "vectors/requests/")) else "client"


_REGISTER: dict[str, Mutant] = {}


def mutant(rule: str, killed_by: str, *also: str) -> Callable[[Change], Change]:
    """Register a function that breaks a rule. ``also``: rules, or patterns of case ids, whose cases may fail too."""

    def register(change: Change) -> Change:
        name = change.__name__.replace("_", "-")
        if name in _REGISTER:
            raise ValueError(f"mutant {name}: the name is taken")
        _REGISTER[name] = Mutant(name, rule, killed_by, inspect.cleandoc(change.__doc__ or ""), also, change)
        return change

    return register


def all_mutants() -> dict[str, Mutant]:
    """Every mutant by its name. Raises ImportError where the Python port is not installed."""
    for area in AREAS:
        importlib.import_module(f"{__name__}.{area}")
    return _REGISTER


def wrap(owner: Any, name: str) -> Callable[[Callable[..., Any]], None]:
    """Decorator: put a function in the place of a function of a module, or a method of a class; it gets the original first.

    A function of a module is replaced wherever a module of ``sabir`` has imported it.
    """
    static = inspect.getattr_static(owner, name)
    original = getattr(owner, name)

    def replace(function: Callable[..., Any]) -> None:
        def put(*args: Any, **kwargs: Any) -> Any:
            return function(original, *args, **kwargs)

        functools.update_wrapper(put, original, assigned=("__name__", "__doc__"), updated=())
        if inspect.isclass(owner):
            setattr(owner, name, staticmethod(put) if isinstance(static, staticmethod) else put)
        else:
            substitute(original, put)

    return replace


def substitute(old: object, new: object) -> None:
    """Put something in the place of something else wherever a module of ``sabir`` holds it."""
    places = [
        (module, name)
        for module in list(sys.modules.values())
        if getattr(module, "__name__", "").partition(".")[0] == "sabir"
        for name, value in list(vars(module).items())
        if value is old
    ]
    if not places:
        raise LookupError(f"no module of sabir holds {old!r}")
    for module, name in places:
        setattr(module, name, new)
