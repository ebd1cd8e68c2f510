"""The parts of a repository. Times are ISO strings in UTC, which sort chronologically."""

from __future__ import annotations

import base64
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

WEB = "https://github.example"
API = "https://api.github.example"  # placeholder for the server's address in event payloads; see rest.py
IDS_PER_REPOSITORY = 1_000_000
REACTIONS = ("THUMBS_UP", "THUMBS_DOWN", "LAUGH", "HOORAY", "CONFUSED", "HEART", "ROCKET", "EYES")


def node_id(prefix: str, database_id: int) -> str:
    """The opaque global id of an object, for `node(id:)`."""
    return f"{prefix}_{base64.urlsafe_b64encode(struct.pack('>Q', database_id)).decode().rstrip('=')}"


def serial_of(global_id: str) -> int | None:
    """The serial number of the repository that an id made by `node_id` belongs to; None for any other text."""
    _, _, packed = global_id.partition("_")
    try:
        (database_id,) = struct.unpack(">Q", base64.urlsafe_b64decode(packed + "="))
    except (ValueError, struct.error):
        return None
    return int(database_id) // IDS_PER_REPOSITORY


@dataclass(eq=False)
class Actor:
    """A user, bot or organization. `web` is the site of its URLs: archives have real ones."""

    login: str
    database_id: int
    typename: str = "User"
    name: str | None = None
    web: str = WEB

    @cached_property
    def id(self) -> str:
        return node_id(self.typename[0], self.database_id)

    @cached_property
    def avatar_url(self) -> str:
        return f"{self.web}/{self.login}.png"

    @cached_property
    def resource_path(self) -> str:
        return f"/{self.login}"

    @cached_property
    def url(self) -> str:
        return f"{self.web}/{self.login}"


@dataclass(eq=False, slots=True)
class Reaction:
    """A reaction; `user` is None if the account was deleted."""

    database_id: int
    content: str
    created_at: str
    user: Actor | None
    reactable: Thread | Comment
    typename = "Reaction"

    @property
    def id(self) -> str:
        return node_id("REA", self.database_id)


@dataclass(eq=False, slots=True)
class ReactionGroup:
    """All reactions of one kind to an item; `created_at` is None if there are none."""

    content: str
    subject: Reactable
    reactions: list[Reaction]

    @property
    def created_at(self) -> str | None:
        return min((reaction.created_at for reaction in self.reactions), default=None)


class Reactable:
    """An item that can have reactions: a thread or a comment."""

    reactions: list[Reaction]

    def reaction_groups(self) -> list[ReactionGroup]:
        """All eight kinds: GitHub lists the unused ones too."""
        groups: defaultdict[str, list[Reaction]] = defaultdict(list)
        for reaction in self.reactions:
            groups[reaction.content].append(reaction)
        return [ReactionGroup(content, self, groups.get(content, [])) for content in REACTIONS]


@dataclass(eq=False)
class Comment(Reactable):
    """A comment on an issue or on a pull request's conversation."""

    database_id: int
    thread: Thread
    author: Actor | None
    author_association: str
    body: str
    created_at: str
    updated_at: str
    reactions: list[Reaction] = field(default_factory=list)
    typename = "IssueComment"

    @cached_property
    def id(self) -> str:
        return node_id("IC", self.database_id)

    @cached_property
    def resource_path(self) -> str:
        return f"{self.thread.resource_path}#issuecomment-{self.database_id}"

    @cached_property
    def url(self) -> str:
        return f"{self.thread.url}#issuecomment-{self.database_id}"

    @property
    def repository(self) -> Repository:
        return self.thread.repository


@dataclass(eq=False)
class Thread(Reactable):
    """An issue or a pull request. Both share one sequence of numbers and have comments and reactions."""

    typename: str  # Issue or PullRequest
    repository: Repository
    number: int
    author: Actor | None
    author_association: str
    title: str
    body: str
    state: str  # OPEN, CLOSED, MERGED
    created_at: str
    updated_at: str
    closed_at: str | None = None
    merged_at: str | None = None
    reactions: list[Reaction] = field(default_factory=list)
    comments: list[Comment] = field(default_factory=list)
    given_id: str | None = None  # recorded in an archive

    @property
    def database_id(self) -> int:
        return self.repository.serial * IDS_PER_REPOSITORY + self.number

    @cached_property
    def id(self) -> str:
        return self.given_id or node_id("PR" if self.is_pull_request else "I", self.database_id)

    @property
    def is_pull_request(self) -> bool:
        return self.typename == "PullRequest"

    @property
    def closed(self) -> bool:
        return self.state != "OPEN"

    @cached_property
    def resource_path(self) -> str:
        return f"{self.repository.resource_path}/{'pull' if self.is_pull_request else 'issues'}/{self.number}"

    @cached_property
    def url(self) -> str:
        return f"{self.repository.owner.web}{self.resource_path}"


@dataclass(eq=False, slots=True)
class Star:
    """A stargazer and when the star was given."""

    starred_at: str
    user: Actor


@dataclass(eq=False, slots=True)
class Event:
    """An entry of the events feed. Its payload stays as it was, even if its issue changes later."""

    number: int
    type: str
    actor: Actor
    payload: dict[str, Any]
    created_at: str


@dataclass(eq=False)
class Repository:
    """A repository with all its rows. `serial` makes its ids differ from those of other repositories."""

    serial: int
    owner: Actor
    name: str
    description: str | None
    created_at: str
    threads: dict[int, Thread] = field(default_factory=dict)
    stars: list[Star] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    nodes: dict[str, Any] = field(default_factory=dict)
    typename = "Repository"
    _next: int = 0

    @property
    def full_name(self) -> str:
        return f"{self.owner.login}/{self.name}"

    @property
    def database_id(self) -> int:
        return self.serial * IDS_PER_REPOSITORY

    @cached_property
    def id(self) -> str:
        return node_id("R", self.database_id)

    @cached_property
    def resource_path(self) -> str:
        return f"/{self.full_name}"

    @cached_property
    def url(self) -> str:
        return f"{self.owner.web}/{self.full_name}"

    @property
    def updated_at(self) -> str:
        return max((thread.updated_at for thread in self.threads.values()), default=self.created_at)

    def next_id(self) -> int:
        """The next database id for a comment, reaction or star."""
        self._next += 1
        return self.serial * IDS_PER_REPOSITORY + self._next

    def add(self, item: Thread | Comment | Reaction) -> None:
        """Add a row; `node(id:)` finds it."""
        if isinstance(item, Thread):
            self.threads[item.number] = item
        elif isinstance(item, Comment):
            item.thread.comments.append(item)
        else:
            item.reactable.reactions.append(item)
        self.nodes[item.id] = item

    def of_type(self, typename: str) -> Iterator[Thread]:
        """The issues or the pull requests, by number."""
        return (thread for thread in self.threads.values() if thread.typename == typename)
