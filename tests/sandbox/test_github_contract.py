"""The fake GitHub returns nothing that GitHub's published descriptions do not contain."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLUnionType,
    build_schema,
)
from jsonschema import Draft202012Validator

from sandbox.github.schema import SCHEMA
from tests.support.paths import published
from tests.support.sandbox import Sandbox


def differences(ours: GraphQLSchema, theirs: GraphQLSchema) -> list[str]:
    """What our schema says and theirs does not say in the same way."""
    found = []
    for name, ours_type in ours.type_map.items():
        theirs_type = theirs.type_map.get(name)
        if type(ours_type) is not type(theirs_type):
            found.append(f"type {name}")
        elif isinstance(ours_type, GraphQLObjectType | GraphQLInterfaceType):
            assert isinstance(theirs_type, GraphQLObjectType | GraphQLInterfaceType)
            found += [
                f"{name} implements {interface}"
                for interface in {i.name for i in ours_type.interfaces} - {i.name for i in theirs_type.interfaces}
            ]
            for field, definition in ours_type.fields.items():
                other = theirs_type.fields.get(field)
                if other is None or str(other.type) != str(definition.type):
                    found.append(f"field {name}.{field}: {definition.type}")
                    continue
                for argument, value in definition.args.items():
                    same = other.args.get(argument)
                    if same is None or (str(same.type), same.default_value) != (str(value.type), value.default_value):
                        found.append(f"argument {name}.{field}({argument}: {value.type})")
                found += [
                    f"missing argument {name}.{field}({argument})"
                    for argument, value in other.args.items()
                    if str(value.type).endswith("!") and argument not in definition.args
                ]
        elif isinstance(ours_type, GraphQLInputObjectType):
            assert isinstance(theirs_type, GraphQLInputObjectType)
            for field, value in ours_type.fields.items():
                if field not in theirs_type.fields or str(theirs_type.fields[field].type) != str(value.type):
                    found.append(f"input {name}.{field}: {value.type}")
        elif isinstance(ours_type, GraphQLEnumType):
            assert isinstance(theirs_type, GraphQLEnumType)
            found += [f"value {name}.{value}" for value in ours_type.values.keys() - theirs_type.values.keys()]
        elif isinstance(ours_type, GraphQLUnionType):
            assert isinstance(theirs_type, GraphQLUnionType)
            members = {member.name for member in ours_type.types} - {member.name for member in theirs_type.types}
            found += [f"member {name} = {member}" for member in members]
    return found


def test_the_schema_is_a_subset_of_the_published_schema() -> None:
    theirs = build_schema(published("github/schema.graphql"), assume_valid_sdl=True)
    assert differences(build_schema(SCHEMA.read_text(encoding="utf-8")), theirs) == []


def test_the_comparison_reports_what_the_published_schema_lacks() -> None:
    ours = "type Query { a: Int!, b(x: Int): E, c: String } enum E { ONE, TWO }"
    theirs = "type Query { a: Int, b(x: Int!): E } enum E { ONE }"
    assert differences(build_schema(ours), build_schema(theirs)) == [
        "field Query.a: Int!",
        "argument Query.b(x: Int)",
        "field Query.c: String",
        "value E.TWO",
    ]


@cache
def components() -> dict[str, Any]:
    """The schemas of the REST description, as JSON Schema: `nullable` is OpenAPI's own word."""

    def plain(node: Any) -> Any:
        if isinstance(node, list):
            return [plain(item) for item in node]
        if not isinstance(node, dict):
            return node
        converted = {key: plain(value) for key, value in node.items() if key not in ("example", "nullable")}
        if node.get("nullable") is True:
            return {"anyOf": [converted, {"type": "null"}]}
        return converted

    return {"components": {"schemas": plain(json.loads(published("github/openapi.json"))["components"]["schemas"])}}


def violations(rows: Any, schema: str, many: bool = True) -> list[str]:
    """Where rows break the schema, and top-level keys that it does not know."""
    reference = {"$ref": f"#/components/schemas/{schema}"}
    wanted = {"type": "array", "minItems": 1, "items": reference} if many else reference
    found = [error.message[:300] for error in Draft202012Validator(components() | wanted).iter_errors(rows)]
    known = components()["components"]["schemas"][schema]["properties"]
    return found + [f"unknown key {key}" for row in (rows if many else [rows]) for key in row if key not in known]


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        ("/repos/sandbox/handbook/issues?state=all&per_page=100", "issue"),
        ("/repos/sandbox/handbook/issues/comments?per_page=100", "issue-comment"),
        ("/repos/sandbox/handbook/stargazers", "simple-user"),
        ("/repos/sandbox/handbook/events?per_page=100", "event"),
    ],
)
def test_lists_match_the_published_description(sandbox: Sandbox, path: str, schema: str) -> None:
    rows = sandbox.github.get(path).json()
    if schema == "event":  # `payload` is a choice of which one member accepts anything; the next test looks into it
        rows = [row | {"payload": {}} for row in rows]
        assert [v for v in violations(rows, schema) if not v.startswith("{}")] == []
    else:
        assert violations(rows, schema) == []


def test_single_objects_match_the_published_description(sandbox: Sandbox) -> None:
    stars = sandbox.github.get(
        "/repos/sandbox/handbook/stargazers", headers={"Accept": "application/vnd.github.star+json"}
    )
    assert violations(stars.json(), "stargazer") == []
    assert violations(sandbox.github.get("/repos/sandbox/handbook").json(), "full-repository", many=False) == []
    assert violations(sandbox.github.get("/rate_limit").json(), "rate-limit-overview", many=False) == []
    assert violations(sandbox.github.get("/repos/sandbox/nothing").json(), "basic-error", many=False) == []


def test_every_events_payload_matches_its_type(sandbox: Sandbox) -> None:
    schemas = {
        "PushEvent": "push-event",
        "IssueCommentEvent": "issue-comment-event",
        "IssuesEvent": "issues-event",
        "PullRequestEvent": "pull-request-event",
        "WatchEvent": "watch-event",
        "CreateEvent": "create-event",
        "DeleteEvent": "delete-event",
        "ForkEvent": "fork-event",
        "ReleaseEvent": "release-event",
    }
    events = []
    for page in (1, 2, 3):
        events += sandbox.github.get(f"/repos/sandbox/website/events?per_page=100&page={page}").json()
    assert {event["type"] for event in events} == set(schemas)
    for event in events:
        assert violations(event["payload"], schemas[event["type"]], many=False) == [], event["type"]
