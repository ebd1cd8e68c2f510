"""Reads repositories from JSON archives of issues, pull requests and comments, which IETF working groups publish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sandbox.github.model import Actor, Comment, Repository, Thread

WEB = "https://github.com"


class ArchiveError(Exception):
    """A file that cannot be served. The message names the file and the reason."""


def read(path: Path, serial: int) -> Repository:
    """The repository in the file. Archives contain no reactions, stargazers or events. The ids of comments and
    people are generated. Raises ArchiveError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArchiveError(f"the archive {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ArchiveError(f"the archive {path} is not JSON: {error}") from error
    try:
        return _Reader(document, serial).repository
    except KeyError as error:
        raise ArchiveError(f"the archive {path} is malformed: it lacks {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise ArchiveError(f"the archive {path} is malformed: {error}") from error


class _Reader:
    def __init__(self, document: dict[str, Any], serial: int) -> None:
        owner, separator, name = document["repo"].partition("/")
        if not separator:
            raise ValueError(f"its repo is {document['repo']!r}, not owner/name")
        rows = [(row, kind) for kind, key in (("Issue", "issues"), ("PullRequest", "pulls")) for row in document[key]]
        created_at = min((row["createdAt"] for row, _ in rows), default="1970-01-01T00:00:00Z")
        self.actors: dict[str, Actor] = {}
        self.serial = serial
        organization = Actor(owner, serial * 1_000_000, "Organization", web=WEB)
        self.repository = Repository(serial, organization, name, None, created_at)
        self.repository.nodes[organization.id] = organization
        for row, kind in sorted(rows, key=lambda pair: pair[0]["number"]):
            self.thread(row, kind)

    def actor(self, login: str | None) -> Actor | None:
        if login is None:
            return None
        if login not in self.actors:
            actor = Actor(login, self.serial * 1_000_000 + len(self.actors) + 1, web=WEB)
            self.actors[login] = self.repository.nodes[actor.id] = actor
        return self.actors[login]

    def thread(self, row: dict[str, Any], kind: str) -> None:
        thread = Thread(
            typename=kind,
            repository=self.repository,
            number=row["number"],
            author=self.actor(row["author"]),
            author_association=row["authorAssociation"],
            title=row["title"],
            body=row["body"] or "",
            state=row["state"],
            created_at=row["createdAt"],
            updated_at=row["updatedAt"],
            closed_at=row["closedAt"],
            merged_at=row.get("mergedAt"),
            given_id=row["id"],
        )
        self.repository.add(thread)
        for item in row["comments"]:
            comment = Comment(
                database_id=self.repository.next_id(),
                thread=thread,
                author=self.actor(item["author"]),
                author_association=item["authorAssociation"],
                body=item["body"] or "",
                created_at=item["createdAt"],
                updated_at=item["updatedAt"],
            )
            self.repository.add(comment)
