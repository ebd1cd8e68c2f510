"""The executable schema: a resolver for every field of schema.graphql."""

from __future__ import annotations

import html
import pathlib
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from typing import Any, ClassVar

from graphql import (
    ExecutionContext,
    FieldNode,
    GraphQLError,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLResolveInfo,
    GraphQLScalarType,
    GraphQLSchema,
    GraphQLUnionType,
    build_schema,
    get_nullable_type,
    is_leaf_type,
    is_non_null_type,
)
from graphql.pyutils import Path

from sandbox.github.connections import Connection, Key, page
from sandbox.github.model import Comment, Reactable, ReactionGroup, Repository, Thread

Info = GraphQLResolveInfo
SCHEMA = pathlib.Path(__file__).with_name("schema.graphql")


def not_found(message: str) -> GraphQLError:
    """GitHub's error for an object that does not exist or is not visible."""
    return GraphQLError(message, extensions={"type": "NOT_FOUND"})


def resolve_node(_: Any, info: Info, id_: str) -> Any:
    """`Query.node`."""
    found = info.context.store.node(id_)
    if found is None:
        raise not_found(f"Could not resolve to a node with the global id of '{id_}'")
    return found


def resolve_nodes(_: Any, info: Info, ids: list[str]) -> list[Any]:
    """`Query.nodes`: each unknown id gives a null and an error."""
    if len(ids) > 100:
        message = f"You may not provide more than 100 node ids; you provided {len(ids)}."
        raise GraphQLError(message, extensions={"type": "ARGUMENT_LIMIT"})
    found = ((global_id, info.context.store.node(global_id)) for global_id in ids)
    return [
        not_found(f"Could not resolve to a node with the global id of '{global_id}'") if row is None else row
        for global_id, row in found
    ]


def resolve_repository(_: Any, info: Info, owner: str, name: str, **__: Any) -> Repository:
    """`Query.repository`."""
    found: Repository | None = info.context.store.repository(owner, name)
    if found is None:
        raise not_found(f"Could not resolve to a Repository with the name '{owner}/{name}'.")
    return found


def by_number(typename: str | None) -> Callable[..., Thread]:
    """The resolver of `issue`, of `pullRequest` or, without a type, of `issueOrPullRequest`."""

    def resolve(repository: Repository, _: Info, number: int) -> Thread:
        found = repository.threads.get(number)
        if found is None or (typename and found.typename != typename):
            what = {"Issue": "an Issue", "PullRequest": "a PullRequest"}.get(typename or "", "an issue or pull request")
            raise not_found(f"Could not resolve to {what} with the number of {number}.")
        return found

    return resolve


THREAD_KEYS: dict[str, Callable[[Thread], Key]] = {
    "CREATED_AT": lambda thread: (thread.created_at, thread.number),
    "UPDATED_AT": lambda thread: (thread.updated_at, thread.number),
    "COMMENTS": lambda thread: (len(thread.comments), thread.number),
}


def threads(typename: str) -> Callable[..., Connection]:
    """The resolver of the connection of issues or of pull requests."""

    def resolve(
        repository: Repository,
        _: Info,
        order_by: dict[str, str] | None = None,
        states: list[str] | None = None,
        filter_by: dict[str, Any] | None = None,
        **paging: Any,
    ) -> Connection:
        order = order_by or {"field": "CREATED_AT", "direction": "ASC"}
        rows = list(repository.of_type(typename))
        filters = filter_by or {}
        if states is not None:
            rows = [row for row in rows if row.state in states]
        if filters.get("states") is not None:
            rows = [row for row in rows if row.state in filters["states"]]
        if filters.get("since") is not None:
            rows = [row for row in rows if row.updated_at >= filters["since"]]
        if filters.get("createdBy") is not None:
            rows = [row for row in rows if row.author and row.author.login == filters["createdBy"]]
        key = THREAD_KEYS[order["field"]]
        rows.sort(key=key)
        return page(rows, key, order["field"], descending=order["direction"] == "DESC", **paging)

    return resolve


def comments(thread: Thread, _: Info, order_by: dict[str, str] | None = None, **paging: Any) -> Connection:
    """The comments on an issue or pull request, oldest first by default."""
    if order_by is None:
        return page(thread.comments, lambda row: (row.database_id,), "ID", **paging)
    rows = sorted(thread.comments, key=lambda row: (row.updated_at, row.database_id))
    descending = order_by["direction"] == "DESC"
    return page(rows, lambda row: (row.updated_at, row.database_id), "UPDATED_AT", descending=descending, **paging)


def reactions(
    item: Reactable,
    _: Info,
    content: str | None = None,
    order_by: dict[str, str] | None = None,
    **paging: Any,
) -> Connection:
    """The reactions to anything."""
    rows = item.reactions if content is None else [row for row in item.reactions if row.content == content]
    descending = order_by is not None and order_by["direction"] == "DESC"
    return page(rows, lambda row: (row.database_id,), "ID", descending=descending, **paging)


def reactors(group: ReactionGroup, _: Info, **paging: Any) -> Connection:
    """Who reacted in one way; deleted accounts are not listed."""
    rows = [row for row in group.reactions if row.user is not None]
    return page(rows, lambda row: (row.database_id,), "ID", node=attrgetter("user"), **paging)


def stargazers(
    repository: Repository,
    _: Info,
    order_by: dict[str, str] | None = None,
    **paging: Any,
) -> Connection:
    """Stargazers by date."""
    descending = order_by is not None and order_by["direction"] == "DESC"
    return page(
        repository.stars,
        lambda star: (star.starred_at, star.user.database_id),
        "STARRED_AT",
        node=attrgetter("user"),
        descending=descending,
        **paging,
    )


def avatar(actor: Any, _: Info, size: int | None = None) -> str:
    """The avatar's URL, in the requested size."""
    return f"{actor.avatar_url}?size={size}" if size else str(actor.avatar_url)


def comment_thread(typename: str) -> Callable[[Comment, Info], Thread | None]:
    """`IssueComment.issue` and `IssueComment.pullRequest`. For a comment on a pull request only the second has a
    value; the first, which is not nullable, is an error there."""

    def resolve(comment: Comment, _: Info) -> Thread | None:
        return comment.thread if comment.thread.typename == typename else None

    return resolve


RESOLVERS: dict[str, dict[str, Callable[..., Any]]] = {
    "Query": {
        "node": resolve_node,
        "nodes": resolve_nodes,
        "repository": resolve_repository,
        "rateLimit": lambda _, info: info.context.rate_limit(),
        "viewer": lambda _, info: info.context.viewer,
    },
    "Repository": {
        "issue": by_number("Issue"),
        "pullRequest": by_number("PullRequest"),
        "issueOrPullRequest": by_number(None),
        "issues": threads("Issue"),
        "pullRequests": threads("PullRequest"),
        "stargazers": stargazers,
        "stargazerCount": lambda repository, _: len(repository.stars),
        "nameWithOwner": lambda repository, _: repository.full_name,
        "isPrivate": lambda _, __: False,
        "pushedAt": lambda repository, _: repository.updated_at,
    },
    "PullRequest": {
        "comments": comments,
        "merged": lambda thread, _: thread.state == "MERGED",
        "isDraft": lambda _, __: False,
    },
    "Issue": {"comments": comments},
    "IssueComment": {"issue": comment_thread("Issue"), "pullRequest": comment_thread("PullRequest")},
    "ReactionGroup": {"reactors": reactors},
    "StargazerEdge": {"starredAt": lambda edge, _: edge.row.starred_at},
    "ReactorEdge": {"reactedAt": lambda edge, _: edge.row.created_at},
}
# Fields that mean the same on every type that has them.
COMMON: dict[str, Callable[..., Any]] = {
    "avatarUrl": avatar,
    "reactions": reactions,
    "reactionGroups": lambda item, _: item.reaction_groups(),
    "bodyHTML": lambda item, _: f"<p>{html.escape(item.body)}</p>",
    "bodyText": lambda item, _: item.body,
    "publishedAt": lambda item, _: item.created_at,
    "locked": lambda _, __: False,
    "viewerHasReacted": lambda _, __: False,
}


def snake(name: str) -> str:
    """The name of the attribute for a field without a resolver of its own."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


class Execution(ExecutionContext):
    """graphql-core's execution with a shortcut for fields that only read an attribute whose value needs no
    conversion, which most fields of a page are."""

    plain: ClassVar[dict[tuple[str, str], tuple[Callable[[Any], Any], bool]]] = {}  # getter, nullable

    def execute_field(
        self, parent_type: GraphQLObjectType, source: Any, field_nodes: list[FieldNode], path: Path
    ) -> Any:
        """The field's value. Fields that can fail are executed by the library."""
        get, nullable = self.plain.get((parent_type.name, field_nodes[0].name.value), (None, False))
        value = get(source) if get else None
        if value is not None or nullable:
            return value
        return super().execute_field(parent_type, source, field_nodes, path)


def _read(get: Callable[[Any], Any], source: Any, _: Info) -> Any:
    return get(source)


def parse_time(value: Any) -> str:
    """A DateTime argument in the format that rows have, so that the two can be compared."""
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{value!r} is not an ISO 8601 date and time") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def executable_schema() -> GraphQLSchema:
    """schema.graphql with its resolvers."""
    schema = build_schema(SCHEMA.read_text(encoding="utf-8"))
    for graphql_type in schema.type_map.values():
        if isinstance(graphql_type, GraphQLInterfaceType | GraphQLUnionType):
            graphql_type.resolve_type = lambda value, *_: value.typename
        elif isinstance(graphql_type, GraphQLObjectType) and not graphql_type.name.startswith("__"):
            own = RESOLVERS.get(graphql_type.name, {})
            for name, field in graphql_type.fields.items():
                for argument_name, argument in field.args.items():
                    argument.out_name = "id_" if argument_name == "id" else snake(argument_name)
                field.resolve = own.get(name) or COMMON.get(name)
                if field.resolve is None:
                    get = attrgetter(snake(name))
                    field.resolve = partial(_read, get)
                    if is_leaf_type(get_nullable_type(field.type)):
                        Execution.plain[graphql_type.name, name] = get, not is_non_null_type(field.type)
    times = schema.type_map["DateTime"]
    assert isinstance(times, GraphQLScalarType)
    times.parse_value = parse_time  # type: ignore[method-assign]
    return schema
