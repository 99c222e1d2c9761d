"""The same client and server for asyncio, under the same names.

>>> calc = Client("redis://127.0.0.1:6379/0").service("calc")
>>> await calc.add(1, 2)
3
"""

from ..dispatch import context
from .client import Client, Service
from .server import Server

__all__ = ["Client", "Server", "Service", "context"]
