"""What the steps of a case do. One function a step; a case is a list of them (schemas/case.schema.json has the forms).

The register is filled as the modules are imported: each has the steps of one area.
"""

from . import client, faults, processes, store, wire, worker  # noqa: F401 - their steps register themselves
from .base import STEPS, same

__all__ = ["STEPS", "same"]
