"""What a case has at hand: a namespace of its own, Redis, a proxy, a driver, names for what it sent."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import secrets
import signal
import time
from dataclasses import dataclass, field
from typing import Any, Final

from .driver import Driver
from .proxy import Proxy, Rule, Transcript, show
from .resp import Connection, RedisError
from .schemas import validate
from .server import OwnServer, Redis, keys_of

WAIT: Final = 3.0
"""Seconds within which what has to happen has to have happened, unless a case says otherwise."""

# As in section 15 of the specification.
WORKER_COMMANDS: Final = (
    "+hello +auth +ping +select +client|info +client|kill +client|unblock +info "
    "+blmove +lmove +lrange +lrem +lpos +rpush +ltrim +pexpire +zadd +zrem +set +get +multi +exec +time "
    "+eval +evalsha +lindex +llen +lpop +lpush +zscore +zcount +zrangebyscore +del"
)
CLIENT_COMMANDS: Final = (
    "+hello +auth +ping +select +client|info "
    "+rpush +lrem +llen +exists +watch +unwatch +multi +exec +blmove +blpop +lpop +lrange +ltrim +del +time"
)


class Failed(Exception):
    """An assertion of a case did not hold: what was expected, and what was seen."""


@dataclass(slots=True)
class Sent:
    """A request of the case: pushed by the runner, or by the port."""

    id: str
    token: str | None
    element: bytes
    envelope: Any = None


@dataclass
class World:
    """One case's surroundings."""

    case: dict[str, Any]
    driver: Driver
    redis: Redis
    connection: Connection
    namespace: str = field(default_factory=lambda: f"t{secrets.token_hex(6)}")
    service: str = "svc"
    client_name: str = "probe"
    transcript: Transcript = field(default_factory=Transcript)
    requests: dict[str, Sent] = field(default_factory=dict)
    calls: dict[str, asyncio.Task[dict[str, Any]]] = field(default_factory=dict)
    started: dict[str, float] = field(default_factory=dict)
    patience: dict[str, float] = field(default_factory=dict)
    """Seconds within which a call has to end, whatever the case says."""
    worker: str = ""
    proxy: Proxy = field(init=False)
    user: str = field(init=False)
    blockers: list[Connection] = field(default_factory=list)
    rules: dict[str, Rule] = field(default_factory=dict)
    worker_stopped: bool = False
    mark: int = 0
    """How many commands the proxy had seen at the step mark."""
    first_worker: str = ""
    processes: dict[str, Driver] = field(default_factory=dict)
    """Workers in processes of their own."""
    workers: dict[str, str] = field(default_factory=dict)
    """The ids of other workers than the one under test."""
    ended: set[str] = field(default_factory=set)
    """Processes that have ended, and whose leases were ended."""
    own: OwnServer | None = None
    """The Redis of this case alone."""

    def __post_init__(self) -> None:
        self.proxy = Proxy((self.redis.host, self.redis.port), self.transcript)
        self.user = self.namespace

    # ------------------------------------------------------------------------------------------------ set-up

    async def open(self) -> None:
        """The proxy, and a Redis user that is confined to what the role may touch (section 15)."""
        await self.proxy.start()
        if self.redis.acl:
            if self.driver.role == "server":
                rights = [f"~{self.key('*')}", *WORKER_COMMANDS.split(), *self.case.get("rights", "").split()]
            else:
                reply = self.key(f"reply:{self.client_name}.*")
                write, read = ("%W~", "%R~") if self.redis.write_only_patterns else ("~", "~")
                keys = [f"{write}{self.key('requests')}", f"{read}{self.key('alive')}", f"{read}{self.key('attempts:*')}"]
                rights = [*keys, f"~{reply}", *CLIENT_COMMANDS.split(), *self.case.get("rights", "").split()]
            await self.run("ACL", "SETUSER", self.user, "reset", "on", f">{self.user}", *rights, log=False)
        if self.driver.role == "client":
            await self.serves()

    async def serves(self) -> None:
        """The runner is the worker of a client's case: say that somebody serves."""
        await self.run("SET", self.key("alive"), "1", "PX", "600000", log=False)

    def events(self) -> list[dict[str, Any]]:
        """What handlers of the case said, in whichever process."""
        said = [event for driver in (self.driver, *self.processes.values()) for event in driver.events]
        return [event for event in said if event.get("namespace", self.namespace) == self.namespace]

    @property
    def url(self) -> str:
        """What the port connects to: the proxy."""
        login = f"{self.user}:{self.user}@" if self.redis.acl else self.redis.login
        return f"redis://{login}127.0.0.1:{self.proxy.port}/{self.redis.db}"

    async def close(self) -> None:
        """Undo open(), and delete the case's keys."""
        for task in self.calls.values():
            task.cancel()
        await asyncio.gather(*self.calls.values(), return_exceptions=True)
        for driver in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(driver.pid, signal.SIGCONT)
            await driver.stop()
        await self.proxy.stop()
        for blocker in self.blockers:
            await blocker.close()
        if self.own is not None:
            await asyncio.to_thread(self.own.stop)
            return
        if self.redis.acl:
            await self.run("ACL", "DELUSER", self.user, log=False)
        keys = await self.keys()
        if keys:
            await self.run("DEL", *keys, log=False)

    # ------------------------------------------------------------------------------------------------ Redis

    def key(self, role: str) -> str:
        """A key by its role: requests, active, reply:<token>, … (section 3 of the specification)."""
        return f"{self.namespace}:{{{self.service}}}:{role}"

    def fill(self, text: str) -> str:
        """A text of a case with its names filled in: {requests}, {active}, {reply:a}, {attempts:a}, {leases}, {alive}, {dead}."""

        def name(match: re.Match[str]) -> str:
            role, _, label = match[1].partition(":")
            if role == "active":
                return self.key(f"active:{self.workers[label] if label else self.worker}")
            if role == "attempts":
                return self.key(f"attempts:{self.requests[label].id}")
            if role == "reply":
                return self.key(f"reply:{self.requests[label].token}")
            if role == "element":
                return self.requests[label].element.decode("utf-8", "surrogateescape")
            if role == "worker":
                return self.workers[label] if label else self.worker
            if role == "key":
                return self.key(label)
            return self.key(role)

        return re.sub(
            r"\{(requests|active|leases|alive|dead|worker|(?:active|worker|reply|attempts|element|key):[^{}]+)\}",
            name,
            text,
        )

    async def run(self, *arguments: Any, log: bool = True) -> Any:
        """A command of the runner. Raises RedisError."""
        if log:
            self.transcript.add(
                "runner", ">", " ".join(show(str(a).encode() if not isinstance(a, bytes) else a) for a in arguments)
            )
        answer = (await self.connection.run_all([arguments]))[0]
        if log:
            self.transcript.add("runner", "<", show(answer))
        if isinstance(answer, RedisError):
            raise answer
        return answer

    async def keys(self) -> list[bytes]:
        """All keys of the case's namespace."""
        return await keys_of(self.connection, self.namespace)

    async def now_ms(self) -> int:
        """Redis's clock."""
        seconds, micros = await self.run("TIME", log=False)
        return int(seconds) * 1000 + int(micros) // 1000

    def within(self, spec: dict[str, Any]) -> float:
        """Seconds within which a step has to hold: its own; or the usual ones, twice as many beside many other slow cases."""
        return float(spec.get("within_s", 2 * WAIT if self.case.get("slow") else WAIT))

    async def poll(self, what: str, look: Any, seconds: float = WAIT) -> Any:
        """Look until something is there, less often the longer it takes. Raises Failed, naming what was waited for."""
        begin = time.monotonic()
        while True:
            found = await look()
            if found:
                return found
            waited = time.monotonic() - begin
            if waited > seconds:
                raise Failed(f"expected {what} within {seconds:g} s, got nothing")
            await asyncio.sleep(min(max(0.005, waited / 20), 0.1))

    # ------------------------------------------------------------------------------------------------ elements

    def bytes_of(self, spec: dict[str, Any], id: str, token: str | None) -> bytes:
        """The bytes of an element that is given as text, base64 or parts, with the vectors' id and token replaced."""
        if "base64" in spec:
            data = base64.b64decode(spec["base64"])
        elif "text" in spec:
            data = spec["text"].encode("utf-8", "surrogateescape")
        else:
            data = b"".join(_part(part) for part in spec["parts"])
        data = data.replace(VECTOR_ID, id.encode())
        return data.replace(VECTOR_TOKEN, token.encode()) if token else data

    async def compose(self, spec: dict[str, Any]) -> Sent:
        """An element by its description: raw bytes, or a method with changes to the envelope and the body."""
        id, token = secrets.token_hex(16), f"probe.{secrets.token_hex(8)}"
        if {"text", "base64", "parts"} & spec.keys():
            token = spec.get("token", token)
            return Sent(id, token, self.bytes_of(spec, id, token))
        notification = spec.get("notification", False)
        body: dict[str, Any] = {"jsonrpc": "2.0", "method": spec["method"]}
        if not notification:
            body["id"] = id
        if "params" in spec:
            body["params"] = spec["params"]
        envelope: dict[str, Any] = {"v": 1, "id": id}
        if not notification:
            envelope["reply_to"] = token
        if "deadline_in_ms" in spec:
            envelope["deadline"] = await self.now_ms() + spec["deadline_in_ms"]
        envelope |= spec.get("envelope", {})
        envelope["body"] = body | spec.get("body", {})
        element = json.dumps(envelope, ensure_ascii=False, separators=(",", ":")).encode()
        return Sent(id, None if notification else token, element, envelope)

    def check_schema(self, name: str, value: Any, what: str) -> None:
        """Raises Failed for what the protocol's schema does not accept."""
        fault = validate(name, value)
        if fault:
            raise Failed(f"{what}: expected what {name}.schema.json accepts: {fault}")


def _part(part: str | dict[str, Any]) -> bytes:
    """A part of an element: text, text that is repeated, or bytes in base64."""
    if isinstance(part, str):
        return part.encode()
    return base64.b64decode(part["base64"]) if "base64" in part else str(part["repeat"]).encode() * int(part["times"])


VECTOR_ID: Final = b"5f0c2b7e9a1d4c3f8e6b0a9d7c5e3f12"
VECTOR_TOKEN: Final = b"web-1.9d2e61f0a47b4c5e"
