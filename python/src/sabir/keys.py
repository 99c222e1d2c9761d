"""Every Redis key, and the grammar of the names that they are made of. Nobody else spells a key."""

from __future__ import annotations

import re
from typing import Final

NAMESPACE: Final = "sabir"
"""The namespace unless configured."""

ID: Final = "[0-9a-f]{32}"
"""The grammar of an envelope's id, as a regular expression."""
TOKEN: Final = r"[A-Za-z0-9_-]{1,64}\.[A-Za-z0-9_-]{1,63}"  # noqa: S105 - a grammar
"""The grammar of tokens and of worker ids."""

_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
_SERVICE: Final = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_TOKEN: Final = re.compile(TOKEN, re.ASCII)
_CLIENT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_METHOD: Final = re.compile(r"[!-~]{1,128}", re.ASCII)
_ID: Final = re.compile(ID, re.ASCII)

is_id = _ID.fullmatch
is_token = _TOKEN.fullmatch
is_method = _METHOD.fullmatch


def check(what: str, name: object) -> str:
    """Return ``name`` if it is a legal name of its kind (SABIR-KEY-2).

    ``what`` is one of namespace, service, token, worker (an id), client (the name before the dot), method, id.

    Raises ValueError, naming what was expected and what was seen.
    """
    pattern = _GRAMMAR[what]
    if not isinstance(name, str) or not pattern.fullmatch(name):
        raise ValueError(f"{what}: expected {pattern.pattern}, got {name!r:.200}")
    return name


_GRAMMAR: Final = {
    "namespace": _NAMESPACE,
    "service": _SERVICE,
    "token": _TOKEN,
    "worker": _TOKEN,
    "client": _CLIENT,
    "method": _METHOD,
    "id": _ID,
}


class Keys:
    """The keys of one service (SABIR-KEY-1), all in one Cluster slot.

    Raises ValueError for a namespace or service outside its grammar (SABIR-KEY-2).
    """

    __slots__ = ("_prefix", "alive", "dead", "leases", "requests", "service")

    def __init__(self, namespace: str, service: str) -> None:
        self._prefix = f"{check('namespace', namespace)}:{{{check('service', service)}}}:"
        self.service = service
        """The service's name."""
        self.requests = self._prefix + "requests"
        """List: elements that wait."""
        self.alive = self._prefix + "alive"
        """String with expiry: at least one worker serves."""
        self.leases = self._prefix + "leases"
        """Sorted set: worker → when its lease ends, ms of Redis's clock."""
        self.dead = self._prefix + "dead"
        """List, bounded: dead letters."""

    def active(self, worker: str) -> str:
        """List: the hand of a worker. Raises ValueError for an id outside the grammar."""
        return f"{self._prefix}active:{check('worker', worker)}"

    def reply(self, token: str) -> str:
        """List with expiry: replies for one client (SABIR-TOKEN-2). Raises ValueError for a token outside the grammar."""
        if not is_token(token):
            check("token", token)
        return f"{self._prefix}reply:{token}"

    def attempts(self, id: str) -> str:
        """String with expiry: lost deliveries of a request. Raises ValueError for an id outside the grammar."""
        return f"{self._prefix}attempts:{check('id', id)}"
