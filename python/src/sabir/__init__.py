"""Sabir: RPC between programs in different languages over Redis. The protocol is in ``protocol/spec.md``.

>>> calc = Client("redis://127.0.0.1:6379/0").service("calc")
>>> calc.add(1, 2)
3

``sabir.aio`` has the same names for asyncio, ``sabir.testing`` a client without a Redis.
"""

from .client import Client, Service
from .dispatch import Context, context
from .errors import (
    ApplicationError,
    CallTimeout,
    ConnectionLost,
    DeadlineExceeded,
    InternalError,
    InvalidParams,
    InvalidReply,
    InvalidRequest,
    InvalidResult,
    LimitExceeded,
    MethodNotFound,
    NotQueued,
    Overloaded,
    ParseError,
    SabirError,
    ServiceUnavailable,
    UnsupportedVersion,
    WorkerLost,
)
from .server import Server

__version__ = "0.1.0"

__all__ = [
    "ApplicationError",
    "CallTimeout",
    "Client",
    "ConnectionLost",
    "Context",
    "DeadlineExceeded",
    "InternalError",
    "InvalidParams",
    "InvalidReply",
    "InvalidRequest",
    "InvalidResult",
    "LimitExceeded",
    "MethodNotFound",
    "NotQueued",
    "Overloaded",
    "ParseError",
    "SabirError",
    "Server",
    "Service",
    "ServiceUnavailable",
    "UnsupportedVersion",
    "WorkerLost",
    "context",
]
