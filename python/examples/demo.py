"""Checks each named service from Python and prints a line of JSON for each check: python demo.py <service>…

A line is {"service", "check", "ok", "ms", "detail"}. Exit status 0: all are ok. The demo of the three languages reads it.
"""

import json
import os
import statistics
import sys
import time
import uuid

from sabir import ApplicationError, Client, MethodNotFound

NUMBERS = [0, -1, 2**53 - 1, -(2**53 - 1), 0.5, -1.25e-3, 1e300]
NESTED = {"list": [1, [2, [3, {"deep": [None, True, False]}]]], "empty": [{}, []], "text": {"": ""}}
UNICODE = 'šabïr · 信鴿 · 🎏 · \u0000\u2028"\\/'


class DivisionByZero(ApplicationError):
    code = 1001


def expect(seen, wanted):
    """Refuse anything but what was wanted; 1 and 1.0 are one number, and True is none."""
    if json.dumps(seen) != json.dumps(wanted) and (type(seen) is bool or type(wanted) is bool or seen != wanted):
        raise AssertionError(f"expected {wanted!r}, got {seen!r}")
    return seen


def numbers(calc):
    for number in NUMBERS:
        expect(calc.echo(number), number)
    return f"{len(NUMBERS)} numbers"


def application_error(calc):
    try:
        calc.divide(1, 0)
    except DivisionByZero as error:
        expect([error.code, error.data], [1001, {"a": 1}])
        return repr(error)
    raise AssertionError("expected an error, got a result")


def unknown_method(calc):
    try:
        calc.no_such_method()
    except MethodNotFound as error:
        expect(error.code, -32601)
        return repr(error)
    raise AssertionError("expected an error, got a result")


def notification(client, service, calc):
    text = f"python {uuid.uuid4()}"
    client.notify(service, "note", [text])
    ends = time.monotonic() + 2
    while text not in calc.notes():
        if time.monotonic() > ends:
            raise AssertionError("expected the note within 2 s, it did not come")
        time.sleep(0.01)
    return "noted"


def latency(calc):
    """The median of 50 calls, in ms."""
    times = []
    for _ in range(50):
        begin = time.perf_counter()
        expect(calc.add(1, 2), 3)
        times.append((time.perf_counter() - begin) * 1000)
    return statistics.median(times)


def checks(client, service):
    calc = client.service(service, timeout=5)
    yield "positional", lambda: expect(calc.add(1, 2), 3)
    yield "named", lambda: expect(calc.add(a=1, b=2), 3)
    yield "unicode", lambda: expect(calc.echo(UNICODE), UNICODE)
    yield "nested", lambda: expect(calc.echo(NESTED), NESTED) and "as it was"
    yield "numbers", lambda: numbers(calc)
    yield "application_error", lambda: application_error(calc)
    yield "unknown_method", lambda: unknown_method(calc)
    yield "notification", lambda: notification(client, service, calc)
    yield "latency", lambda: latency(calc)


def main(services):
    all_ok = bool(services)
    url, namespace = os.environ.get("REDIS_URL"), os.environ.get("SABIR_NAMESPACE", "sabir")
    with Client(url, namespace=namespace, name="demo-python", errors=[DivisionByZero]) as client:
        for service in services:
            for check, run in checks(client, service):
                begin = time.perf_counter()
                try:
                    detail, ok = run(), True
                except Exception as error:  # noqa: BLE001 - whatever it is, the next check runs
                    detail, ok = f"{type(error).__name__}: {error}", False
                ms = (time.perf_counter() - begin) * 1000
                if check == "latency" and ok:
                    ms, detail = detail, "median of 50"
                line = {"service": service, "check": check, "ok": ok, "ms": round(ms, 3), "detail": str(detail)}
                print(json.dumps(line), flush=True)
                all_ok = all_ok and ok
    return 0 if all_ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
