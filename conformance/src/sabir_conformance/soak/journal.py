"""What the chaos did, and when: the other half of every history."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Final

from .process import Process

KILL, PAUSE, STOP, START, END, VACANT = "kill", "pause", "stop", "start", "end", "vacant"
CUT, OUTAGE, FLUSH = "cut", "outage", "flush"
BREAKS: Final = (CUT, OUTAGE)
"""What breaks connections to Redis."""


@dataclass(slots=True)
class Event:
    """Something that was done to a worker (``process``), or to Redis (None). Times are monotonic, in seconds."""

    at: float
    kind: str
    text: str
    process: Process | None = None
    until: float = 0.0
    """When it was over; infinity, while it lasts."""


def nobody_serves(service: str) -> str:
    """The text of the event that a service has no worker."""
    return f"nobody serves {service}"


class Journal:
    """All events, oldest first."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.events: list[Event] = []

    def add(self, kind: str, text: str, process: Process | None = None, *, lasts: bool = False) -> Event:
        """Note what happens now. ``lasts``: its end is noted in ``until``, when it comes."""
        now = time.monotonic()
        event = Event(now, kind, text, process, float("inf") if lasts else now)
        self.events.append(event)
        return event

    def during(self, start: float, end: float, *kinds: str) -> list[Event]:
        """What happened, or was going on, between two moments. No kinds: everything."""
        return [
            event
            for event in self.events
            if event.at <= end and event.until >= start and (not kinds or event.kind in kinds)
        ]

    def counts(self) -> Counter[str]:
        """How many there were of each kind."""
        return Counter(event.kind for event in self.events)
