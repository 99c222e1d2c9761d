"""The schemas against the meta-schema, their own examples, the error table and the vectors."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest
from conftest import PROTOCOL, element_of, load

SCHEMAS: dict[str, Any] = {path.name: load(f"schemas/{path.name}") for path in sorted(PROTOCOL.glob("schemas/*.json"))}
REGISTRY = jsonschema_rs.Registry([(schema["$id"], schema) for schema in SCHEMAS.values()])


def validator(name: str, pointer: str = "") -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator({"$ref": SCHEMAS[name]["$id"] + pointer}, registry=REGISTRY)


REQUEST = validator("request.schema.json")
REPLY = validator("reply.schema.json")

# What a schema cannot say: rules on bytes, on levels, and on two members being equal.
BEYOND_A_SCHEMA = {"body id is another id", "65 levels", "65 levels of objects", "100,000 levels"}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_valid_and_says_what_it_is(name: str) -> None:
    schema = SCHEMAS[name]
    jsonschema_rs.meta.validate(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"].endswith("/" + name)
    assert schema["title"]
    assert schema["description"]


def examples() -> list[tuple[str, str, Any]]:
    found = []
    for name, schema in SCHEMAS.items():
        found += [(name, "", example) for example in schema.get("examples", [])]
        for key, sub in schema.get("$defs", {}).items():
            found += [(name, f"#/$defs/{key}", example) for example in sub.get("examples", [])]
    return found


def test_every_schema_has_examples() -> None:
    assert {name for name, _, _ in examples()} == set(SCHEMAS)


@pytest.mark.parametrize(("name", "pointer", "example"), examples())
def test_the_examples_are_valid(name: str, pointer: str, example: Any) -> None:
    validator(name, pointer).validate(example)


def test_the_error_table_is_valid_and_closed() -> None:
    table = load("errors.json")
    validator("errors.schema.json").validate(table)
    codes = [row["code"] for row in table["errors"]]
    names = [row["name"] for row in table["errors"]]
    assert len(set(codes)) == len(codes)
    assert len(set(names)) == len(names)


def parsed(element: bytes) -> Any:
    """The element as strict JSON, or ... if it is none."""

    def refuse(text: str) -> Any:
        raise ValueError(text)

    try:
        text = element.decode("utf-8")
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return ...


@pytest.mark.parametrize("case", load("vectors/requests.json")["cases"], ids=lambda case: case["name"])
def test_the_request_schema_accepts_what_a_worker_may_run(case: dict[str, Any]) -> None:
    element, kind = element_of(case), case["expect"]["kind"]
    value = parsed(element)
    if kind in {"call", "notification"}:
        assert REQUEST.is_valid(value)
    elif value is not ... and kind != "open":
        too_large = len(element) > 1_048_576
        assert REQUEST.is_valid(value) == (too_large or case["name"] in BEYOND_A_SCHEMA or "65 levels" in case["name"])


@pytest.mark.parametrize("case", load("vectors/replies.json")["cases"], ids=lambda case: case["name"])
def test_the_reply_schema_accepts_what_a_client_may_return_or_raise(case: dict[str, Any]) -> None:
    value, kind = parsed(element_of(case)), case["expect"]["kind"]
    if value is not ...:
        assert REPLY.is_valid(value) == (kind in {"result", "error"} or case["name"] in BEYOND_A_SCHEMA)


def test_what_a_port_writes_is_valid() -> None:
    letters = validator("dead-letter.schema.json")
    for case in load("vectors/encode.json")["cases"]:
        if case["expect"] is not None:
            {"request": REQUEST, "result": REPLY, "error": REPLY, "dead letter": letters}[case["what"]].validate(
                case["expect"]
            )


def test_the_names_and_keys_of_the_vectors_fit_their_grammar() -> None:
    key = validator("names.schema.json", "#/$defs/key")
    for case in load("vectors/keys.json")["cases"]:
        parts = {
            what: validator("names.schema.json", f"#/$defs/{what}").is_valid(part) for what, part in case["args"].items()
        }
        assert all(parts.values()) == (case["expect"] is not None), case["name"]
        assert case["expect"] is None or key.is_valid(case["expect"])
    for case in load("vectors/commands.json")["cases"]:
        for command in case["expect"] or []:
            if command[0] == "EVALSHA":
                assert all(key.is_valid(name) for name in command[3 : 3 + int(command[2])]), command
            elif command[0] not in {"MULTI", "EXEC", "TIME", "UNWATCH"}:
                assert key.is_valid(command[1]), command


@pytest.mark.parametrize(
    "key", ["sabir:calc:requests", "sabir:{calc}:reply:a", "sabir:{calc}:queue", "sabir:{}:requests", "sabir:{a.b}:alive"]
)
def test_other_keys_are_not_ours(key: str) -> None:
    assert not validator("names.schema.json", "#/$defs/key").is_valid(key)
