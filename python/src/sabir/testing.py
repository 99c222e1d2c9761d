"""For the tests of programs that use Sabir: a client that calls a Server in the same process, without a Redis.

>>> server = Server("calc")
>>> server.register("add", lambda a, b: a + b)
>>> InProcessClient(server).service("calc").add(1, 2)
3

The same encoding, checks and errors as through Redis; a notification is run at once. Handlers run one after another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from . import errors, messages
from .aio.server import Server as AsyncServer
from .client import TIMEOUT, Call, Client, Plan, Service, new_id, new_token, seconds
from .dispatch import Dispatcher, Job, Methods, Settled
from .errors import ApplicationError, SabirError, application_classes
from .keys import check
from .messages import Limits, Params
from .server import Server


class _WallClock:
    """Stands for Redis's clock."""

    @staticmethod
    def now_ms() -> int:
        return int(time.time() * 1000)


class InProcessClient:
    """Has the methods of ``sabir.Client``, for the servers that it is given; others raise ServiceUnavailable.

    ``dead``: the dead letters, as bytes, newest last.
    """

    def __init__(
        self, *servers: Server | AsyncServer, timeout: float = TIMEOUT, errors: Iterable[type[ApplicationError]] = ()
    ) -> None:
        self._limits = Limits()
        self._timeout = seconds(timeout, TIMEOUT)
        self._own = application_classes(errors)
        self._dispatchers = {server.service: self._dispatcher(server) for server in servers}
        self.dead: list[bytes] = []

    def _dispatcher(self, server: Server | AsyncServer) -> Dispatcher:
        methods: Methods = server
        return Dispatcher(server.service, server.worker, methods, self._limits, False, _WallClock.now_ms)

    service: Callable[..., Service] = Client.service

    def _keys_of(self, service: str) -> None:
        check("service", service)

    def call(
        self,
        service: str,
        method: str,
        params: Params = None,
        timeout: float | None = None,
        *,
        idempotent: bool = False,
        traceparent: str | None = None,
    ) -> Any:
        """As ``sabir.Client.call()``."""
        plan = Plan([(method, params)], seconds(timeout, self._timeout), self._limits, idempotent, traceparent)
        outcome = self._exchange(service, plan)[0]
        if isinstance(outcome, SabirError):
            raise outcome
        return outcome

    def many(
        self, service: str, calls: Sequence[Call], timeout: float | None = None, *, idempotent: bool = False
    ) -> list[Any]:
        """As ``sabir.Client.many()``."""
        return self._exchange(service, Plan(calls, seconds(timeout, self._timeout), self._limits, idempotent))

    def notify(self, service: str, method: str, params: Params = None, **_: Any) -> str:
        """As ``sabir.Client.notify()``; what can't be run becomes a dead letter."""
        id = new_id()
        self._deliver(service, messages.encode_request(id, None, method, params, limits=self._limits))
        return id

    def _exchange(self, service: str, plan: Plan) -> list[Any]:
        outcomes: list[Any] = []
        for element in plan.elements(new_token("in-process"), _WallClock()):
            settled = self._deliver(service, element)
            reply = messages.decode_reply(settled.reply, self._own) if settled.reply is not None else None
            if reply is None:
                raise AssertionError("a call was not answered")
            outcomes.append(reply.result if reply.error is None else reply.error)
        return outcomes

    def _deliver(self, service: str, element: bytes) -> Settled:
        dispatcher = self._dispatchers.get(service)
        if dispatcher is None:
            raise errors.ServiceUnavailable(f"no server for {service!r} was given to the client")
        work = dispatcher.receive(element)
        if isinstance(work, Job):
            try:
                result = work.call()
                if asyncio.iscoroutine(result):
                    result = asyncio.run(result)
            except Exception as error:  # noqa: BLE001 - the caller hears of it
                work = dispatcher.fail(work, error)
            else:
                work = dispatcher.finish(work, result)
        if work.letter is not None:
            self.dead.append(work.letter)
        return work
