"""Whether processes that live long grow."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .process import Process

JUDGED_FROM: Final = 60.0
"""Seconds that a soak has to take for its memory to be judged: before that, everything is still warming up."""
GROWTH: Final = 0.20
SLACK: Final = 12 << 20
"""A process has grown if its memory has by this share *and* by so many bytes: a collector's heap breathes."""
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Growth:
    """The mean memory of a process in the second and in the last quarter of a soak, in bytes."""

    process: Process
    before: float
    after: float
    samples: list[int]

    @property
    def is_too_much(self) -> bool:
        return self.after > self.before * (1 + GROWTH) and self.after > self.before + SLACK


def resident(pid: int) -> int:
    """Bytes of memory that a process holds. Raises OSError or IndexError when it has just ended, or there is no /proc."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE


class Memory:
    """Samples of the resident memory of processes, one a second."""

    def __init__(self) -> None:
        self._samples: dict[Process, list[int]] = {}

    def sample(self, processes: Iterable[Process]) -> None:
        """Look at those that live; the others are forgotten."""
        now: dict[Process, list[int]] = {}
        for process in processes:
            try:
                held = resident(process.pid)
            except (OSError, IndexError):
                continue
            now[process] = self._samples.get(process, [])
            now[process].append(held)
        self._samples = now

    def growth(self, samples: int) -> list[Growth]:
        """Of all processes that were there in at least so many samples."""
        found = []
        for process, sizes in self._samples.items():
            if len(sizes) >= max(samples, 4):
                quarter = len(sizes) // 4
                before, after = sizes[quarter : 2 * quarter], sizes[-quarter:]
                found.append(Growth(process, sum(before) / quarter, sum(after) / quarter, sizes))
        return found
