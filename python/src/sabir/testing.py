"""For the tests of programs that use Sabir: clients that call Servers in the same process, without a Redis.

>>> server = Server("calc")
>>> server.register("add", lambda a, b: a + b)
>>> InProcessClient(server).service("calc").add(1, 2)
3

The same encoding, checks and errors as through Redis; a notification is run at once. Handlers run one after another.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from . import errors, messages
from .aio.client import Client as AsyncClient
from .aio.client import Service as AsyncService
from .aio.server import Server as AsyncServer
from .client import TIMEOUT, Call, Client, Plan, Service, new_token, notification, seconds
from .dispatch import Dispatcher, Job, Settled
from .errors import ApplicationError, SabirError, application_classes
from .keys import NAMESPACE, check
from .messages import MAX_BYTES, MAX_DEPTH, Limits, Params
from .server import Server


class _WallClock:
    """Stands for Redis's clock."""

    @staticmethod
    def now_ms() -> int:
        return int(time.time() * 1000)


class _Double:
    """What both doubles share."""

    def __init__(
        self,
        *servers: Server | AsyncServer,
        timeout: float = TIMEOUT,
        errors: Iterable[type[ApplicationError]] = (),
        max_bytes: int = MAX_BYTES,
        max_depth: int = MAX_DEPTH,
    ) -> None:
        self._namespace = NAMESPACE
        self._timeout = seconds(timeout, TIMEOUT)
        self._own = application_classes(errors)
        self._limits = Limits(max_bytes, max_depth)
        self._dispatchers = {server.service: server.dispatcher(_WallClock.now_ms) for server in servers}
        self.dead: list[bytes] = []

    def _keys_of(self, service: str) -> Dispatcher:
        dispatcher = self._dispatchers.get(check("service", service))
        if dispatcher is None:
            raise errors.ServiceUnavailable(f"no server for {service!r} was given to the client")
        return dispatcher

    def _elements(self, plan: Plan) -> list[bytes]:
        return plan.elements(new_token("in-process"), _WallClock())

    def _outcome(self, settled: Settled) -> Any:
        """The result of a call, or its error; None for a notification."""
        if settled.letter is not None:
            self.dead.append(settled.letter)
        if settled.reply is None:
            return None
        response = messages.decode_reply(settled.reply, self._own)
        if response is None:
            raise AssertionError("a call was not answered")
        return response.result if response.error is None else response.error


class InProcessClient(_Double):
    """Has the methods of ``sabir.Client``, for the servers that it is given; others raise ServiceUnavailable.

    ``dead``: the dead letters, as bytes, newest last. Coroutine handlers run in a loop of their own.
    """

    service: Callable[..., Service] = Client.service
    retry: Callable[..., Any] = Client.retry

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

    def notify(
        self,
        service: str,
        method: str,
        params: Params = None,
        *,
        expires: float | None = None,
        idempotent: bool = False,
        traceparent: str | None = None,
        timeout: float | None = None,
    ) -> str:
        """As ``sabir.Client.notify()``; what can't be run becomes a dead letter."""
        seconds(timeout, self._timeout)
        id, element = notification(method, params, expires, idempotent, traceparent, self._limits)
        self._deliver(self._keys_of(service), element(_WallClock()))
        return id

    def wait_for_service(self, service: str, timeout: float | None = None) -> None:
        """As ``sabir.Client.wait_for_service()``, but there is nothing to wait for."""
        seconds(timeout, self._timeout)
        self._keys_of(service)

    def close(self) -> None:
        """As ``sabir.Client.close()``: there is nothing to close."""

    def __enter__(self) -> InProcessClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exchange(self, service: str, plan: Plan) -> list[Any]:
        dispatcher = self._keys_of(service)
        return [self._deliver(dispatcher, element) for element in self._elements(plan)]

    def _deliver(self, dispatcher: Dispatcher, element: bytes) -> Any:
        work = dispatcher.receive(element)
        if isinstance(work, Job):
            try:
                asynchronous = inspect.iscoroutinefunction(work.handler)
                result = asyncio.run(work.call_async()) if asynchronous else work.call()
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the caller hears of it
                work = dispatcher.fail(work, error)
            else:
                work = dispatcher.finish(work, result)
        return self._outcome(work)


class AsyncInProcessClient(_Double):
    """As InProcessClient, with the methods of ``sabir.aio.Client``."""

    service: Callable[..., AsyncService] = AsyncClient.service
    retry: Callable[..., Awaitable[Any]] = AsyncClient.retry

    async def call(
        self,
        service: str,
        method: str,
        params: Params = None,
        timeout: float | None = None,
        *,
        idempotent: bool = False,
        traceparent: str | None = None,
    ) -> Any:
        """As ``sabir.aio.Client.call()``."""
        plan = Plan([(method, params)], seconds(timeout, self._timeout), self._limits, idempotent, traceparent)
        outcome = (await self._exchange(service, plan))[0]
        if isinstance(outcome, SabirError):
            raise outcome
        return outcome

    async def many(
        self, service: str, calls: Sequence[Call], timeout: float | None = None, *, idempotent: bool = False
    ) -> list[Any]:
        """As ``sabir.aio.Client.many()``."""
        return await self._exchange(service, Plan(calls, seconds(timeout, self._timeout), self._limits, idempotent))

    async def notify(
        self,
        service: str,
        method: str,
        params: Params = None,
        *,
        expires: float | None = None,
        idempotent: bool = False,
        traceparent: str | None = None,
        timeout: float | None = None,
    ) -> str:
        """As ``sabir.aio.Client.notify()``; what can't be run becomes a dead letter."""
        seconds(timeout, self._timeout)
        id, element = notification(method, params, expires, idempotent, traceparent, self._limits)
        await self._deliver(self._keys_of(service), element(_WallClock()))
        return id

    async def wait_for_service(self, service: str, timeout: float | None = None) -> None:
        """As ``sabir.aio.Client.wait_for_service()``, but there is nothing to wait for."""
        seconds(timeout, self._timeout)
        self._keys_of(service)

    async def close(self) -> None:
        """As ``sabir.aio.Client.close()``: there is nothing to close."""

    async def __aenter__(self) -> AsyncInProcessClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _exchange(self, service: str, plan: Plan) -> list[Any]:
        dispatcher = self._keys_of(service)
        return [await self._deliver(dispatcher, element) for element in self._elements(plan)]

    async def _deliver(self, dispatcher: Dispatcher, element: bytes) -> Any:
        work = dispatcher.receive(element)
        if isinstance(work, Job):
            try:
                result = await work.call_async()
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the caller hears of it
                work = dispatcher.fail(work, error)
            else:
                work = dispatcher.finish(work, result)
        return self._outcome(work)
