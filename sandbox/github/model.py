"""What a repository consists of. Times are ISO strings in UTC, so that they compare as they sort."""

from __future__ import annotations

import base64
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

WEB = "https://github.example"
API = "https://api.github.example"  # stands for the server's own address in frozen event payloads
IDS_PER_REPOSITORY = 1_000_000
REACTIONS = ("THUMBS_UP", "THUMBS_DOWN", "LAUGH", "HOORAY", "CONFUSED", "HEART", "ROCKET", "EYES")


def node_id(prefix: str, database_id: int) -> str:
    """The opaque global id of one object, as `node(id:)` takes it."""
    return f"{prefix}_{base64.urlsafe_b64encode(struct.pack('>Q', database_id)).decode().rstrip('=')}"


def serial_of(global_id: str) -> int | None:
    """The serial number of the repository that an id of `node_id` belongs to; None for any other text."""
    _, _, packed = global_id.partition("_")
    try:
        (database_id,) = struct.unpack(">Q", base64.urlsafe_b64decode(packed + "="))
    except (ValueError, struct.error):
        return None
    return int(database_id) // IDS_PER_REPOSITORY


@dataclass(eq=False)
class Actor:
    """A user, bot or organization. `avatar_url` and `url` are part of it because archives have real ones."""

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
    """One person's reaction; `user` is None once that person deleted the account."""

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
    """All reactions of one kind to one thing; `created_at` is None while there is none."""

    content: str
    subject: Reactable
    reactions: list[Reaction]

    @property
    def created_at(self) -> str | None:
        return min((reaction.created_at for reaction in self.reactions), default=None)


class Reactable:
    """What threads and comments share."""

    reactions: list[Reaction]

    def reaction_groups(self) -> list[ReactionGroup]:
        """All eight kinds, also those nobody used: GitHub lists them all."""
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
    """An issue or a pull request: GitHub numbers them together, and both carry comments and reactions."""

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
    given_id: str | None = None  # the id that an archive recorded

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
    """A stargazer and the moment of the star."""

    starred_at: str
    user: Actor


@dataclass(eq=False, slots=True)
class Event:
    """One entry of the events feed; its payload never changes, also when the issue in it does."""

    number: int
    type: str
    actor: Actor
    payload: dict[str, Any]
    created_at: str


@dataclass(eq=False)
class Repository:
    """A repository with all its rows, in memory. `serial` keeps the ids of different repositories apart."""

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
        """A database id for a comment, reaction or star of this repository."""
        self._next += 1
        return self.serial * IDS_PER_REPOSITORY + self._next

    def add(self, item: Thread | Comment | Reaction) -> None:
        """Put a new row in its place and make it findable by `node(id:)`."""
        if isinstance(item, Thread):
            self.threads[item.number] = item
        elif isinstance(item, Comment):
            item.thread.comments.append(item)
        else:
            item.reactable.reactions.append(item)
        self.nodes[item.id] = item

    def of_type(self, typename: str) -> Iterator[Thread]:
        """Its issues, or its pull requests, by number."""
        return (thread for thread in self.threads.values() if thread.typename == typename)
