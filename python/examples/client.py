"""A short tour of the client: python client.py [service]. One of the example workers has to serve it."""

import os
import sys

from sabir import ApplicationError, Client, MethodNotFound


class DivisionByZero(ApplicationError):
    code = 1001


def main(service="calc"):
    url, namespace = os.environ.get("REDIS_URL"), os.environ.get("SABIR_NAMESPACE", "sabir")
    with Client(url, namespace=namespace, name="tour", errors=[DivisionByZero]) as client:
        calc = client.service(service, timeout=5)

        print("positional   calc.add(1, 2)           ", calc.add(1, 2))
        print("named        calc.add(a=1, b=2)       ", calc.add(a=1, b=2))
        print("any value    calc.echo(…)             ", calc.echo({"šabïr": [1, 0.5, None, "🎏"]}))

        try:
            calc.divide(1, 0)
        except DivisionByZero as error:
            print("its error    calc.divide(1, 0)        ", repr(error), error.code, error.data)
        try:
            calc.nothing()
        except MethodNotFound as error:
            print("unknown      calc.nothing()           ", repr(error), "-", error.outcome)

        print("notify       client.notify(…)         ", client.notify(service, "note", ["from the tour"]))
        print("many         client.many(…)           ", client.many(service, [("add", [n, n]) for n in range(5)]))
        print("who answers  calc.whoami()            ", calc.whoami())


if __name__ == "__main__":
    main(*sys.argv[1:2])
