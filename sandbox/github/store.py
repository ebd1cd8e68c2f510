"""The repositories of the fake GitHub, generated when first requested, and the changes that a test can make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any
from zlib import crc32

from sandbox.arguments import check_known
from sandbox.github import archive, events
from sandbox.github.generate import BUILT_IN, Generator, Size, at
from sandbox.github.model import Actor, Comment, Event, Reaction, Repository, Star, Thread, serial_of

OWNER = Actor("sandbox", 900, "Organization", "Sandbox")
VIEWER = Actor("sandbox-user", 901, name="Sandbox User")
CLOCK_START = int(datetime.fromisoformat("2026-07-01T00:00:00Z").timestamp())
TICK = 60


class Store:
    """Holds the repositories. `reset` generates again those that were changed, and keeps the others."""

    def __init__(self, seed: int = 1, archives: Sequence[Path] = ()) -> None:
        self.seed = seed
        self._makers: dict[str, tuple[int, Callable[[], Repository]]] = {}
        self._loaded: dict[str, Repository] = {}
        self._changed: set[str] = set()
        for name, size in BUILT_IN.items():
            self._register(name, size)
        for path in archives:
            self._register_archive(path)
        self._recorded = set(self._loaded)
        self._original = dict(self._makers)
        self._first_tick = max([CLOCK_START, *(_seconds(repo.updated_at) + 3_600 for repo in self._loaded.values())])
        self._clock = self._first_tick

    def _register(self, name: str, size: Size) -> str:
        key = f"{OWNER.login}/{name}".lower()
        serial = self._makers[key][0] if key in self._makers else len(self._makers) + 1
        self._makers[key] = serial, lambda: Generator(OWNER, name, serial, size, self.seed).build()
        return key

    def _register_archive(self, path: Path) -> None:
        serial = len(self._makers) + 1
        repository = archive.read(path, serial)
        key = repository.full_name.lower()
        if key in self._makers:
            raise archive.ArchiveError(f"the archive {path} contains {repository.full_name}, which is already served")
        self._makers[key] = serial, lambda: archive.read(path, serial)
        self._loaded[key] = repository

    def reset(self) -> None:
        for key in self._changed:
            self._loaded.pop(key, None)
        self._makers = dict(self._original)
        # The ids in an archive do not say which repository they belong to, so `node` only finds them if it is loaded.
        self._loaded |= {key: self._makers[key][1]() for key in self._changed & self._recorded}
        self._changed.clear()
        self._clock = self._first_tick

    def repository(self, owner: str, name: str) -> Repository | None:
        """The repository, or None. Names are case-insensitive."""
        key = f"{owner}/{name}".lower()
        if key not in self._loaded and key in self._makers:
            self._loaded[key] = self._makers[key][1]()
        return self._loaded.get(key)

    def node(self, global_id: str) -> Any:
        """The object with this id, or None."""
        if global_id == VIEWER.id:
            return VIEWER
        serial = serial_of(global_id)
        for key, (number, _) in list(self._makers.items()):
            if key in self._loaded or number == serial:
                owner, _, name = key.partition("/")
                repository = self.repository(owner, name)
                if repository is None:
                    continue
                if global_id == repository.id:
                    return repository
                if global_id in repository.nodes:
                    return repository.nodes[global_id]
        return None

    def create(self, name: str, size: Size) -> Repository:
        """Add the repository `sandbox/<name>`; until the reset it replaces one of the same name."""
        key = self._register(name, size)
        self._changed.add(key)
        self._loaded[key] = self._makers[key][1]()
        return self._loaded[key]

    def change(self, kind: str, repository: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Make one change; returns the identity of the changed row. Raises ValueError for wrong arguments."""
        owner, _, name = repository.partition("/")
        target = self.repository(owner, name)
        if target is None:
            raise ValueError(f"unknown repository {repository!r}")
        check_known("change", kind, sorted(name for name in vars(_Changes) if not name.startswith("_")))
        self._changed.add(target.full_name.lower())
        self._clock += TICK
        try:
            return dict(getattr(_Changes(target, at(self._clock)), kind)(**arguments))
        except (TypeError, LookupError, StopIteration) as error:
            raise ValueError(f"the change {kind!r} of {repository} with {arguments} failed: {error!r}") from error


class _Changes:
    """One method per change; its name is the `kind` of the control call. Arguments that are left out are chosen."""

    def __init__(self, repository: Repository, now: str) -> None:
        self._repository, self._now = repository, now

    def _thread(self, number: int | None, typename: str | None = None, *, still_open: bool = False) -> Thread:
        if number is not None:
            return self._repository.threads[number]
        threads = self._repository.threads.values()
        return next(
            thread
            for thread in threads
            if (typename is None or thread.typename == typename) and not (still_open and thread.closed)
        )

    def _user(self, login: str) -> Actor:
        for actor in self._repository.nodes.values():
            if isinstance(actor, Actor) and actor.login == login:
                return actor
        actor = Actor(login, 1_000_000_000 + crc32(login.encode()) % 1_000_000_000)  # the same in every process
        self._repository.nodes[actor.id] = actor
        return actor

    def _open(self, typename: str, title: str, body: str, login: str) -> dict[str, Any]:
        number = max(self._repository.threads, default=0) + 1
        author = self._user(login)
        thread = Thread(typename, self._repository, number, author, "NONE", title, body, "OPEN", self._now, self._now)
        self._repository.add(thread)
        return {"number": number, "id": thread.id, "updated_at": self._now}

    def new_issue(self, title: str = "A new issue", body: str = "", login: str = "newcomer") -> dict[str, Any]:
        return self._open("Issue", title, body, login)

    def new_pull_request(self, title: str = "A new change", body: str = "", login: str = "newcomer") -> dict[str, Any]:
        return self._open("PullRequest", title, body, login)

    def edit(self, number: int | None = None, title: str | None = None, body: str | None = None) -> dict[str, Any]:
        thread = self._thread(number)
        thread.title = thread.title if title is None else title
        thread.body = thread.body if body is None else body
        thread.updated_at = self._now
        return {"number": thread.number, "updated_at": self._now}

    def close(self, number: int | None = None, merge: bool = False) -> dict[str, Any]:
        thread = self._thread(number, "PullRequest", still_open=True)
        thread.state = "MERGED" if merge else "CLOSED"
        thread.closed_at = thread.updated_at = self._now
        thread.merged_at = self._now if merge else None
        return {"number": thread.number, "updated_at": self._now}

    def new_comment(
        self, number: int | None = None, body: str = "One more comment", login: str = "newcomer"
    ) -> dict[str, Any]:
        thread = self._thread(number)
        comment = Comment(self._repository.next_id(), thread, self._user(login), "NONE", body, self._now, self._now)
        self._repository.add(comment)
        thread.updated_at = self._now
        return {"number": thread.number, "id": comment.id, "updated_at": self._now}

    def new_reaction(
        self, number: int | None = None, content: str = "HEART", login: str = "newcomer"
    ) -> dict[str, Any]:
        """As on GitHub, a reaction does not change `updatedAt`."""
        thread = self._thread(number)
        reaction = Reaction(self._repository.next_id(), content, self._now, self._user(login), thread)
        self._repository.add(reaction)
        return {"number": thread.number, "id": reaction.id, "created_at": self._now}

    def new_stargazer(self, login: str | None = None) -> dict[str, Any]:
        star = Star(self._now, self._user(login or f"stargazer-{len(self._repository.stars) + 1}"))
        self._repository.stars.append(star)
        return {"login": star.user.login, "starred_at": star.starred_at}

    def new_event(self, event_type: str = "PushEvent", login: str = "newcomer") -> dict[str, Any]:
        feed = self._repository.events
        last = feed[-1].number if feed else events.FIRST_NUMBER + self._repository.serial * 100_000
        return self._event(last + events.STEP, event_type, self._now, login, len(feed))

    def late_event(
        self,
        event_type: str = "PushEvent",
        login: str = "newcomer",
        behind: int = 1,
    ) -> dict[str, Any]:
        """An event that happened before the last `behind` events but appears only now."""
        feed = self._repository.events
        place = max(len(feed) - behind, 0)
        after = feed[place]
        number = max(feed[place - 1].number if place else 0, after.number - events.STEP) + 1
        if number >= after.number:
            raise ValueError(f"no event number is left before {after.number}")
        return self._event(number, event_type, at(_seconds(after.created_at) - 1), login, place)

    def _event(self, number: int, kind: str, created_at: str, login: str, place: int) -> dict[str, Any]:
        actor = self._user(login)
        rng = Random(number)  # noqa: S311 - has to be repeatable
        payload = events.payload(kind, self._repository, actor, number, rng)
        self._repository.events.insert(place, Event(number, kind, actor, payload, created_at))
        return {"id": str(number), "created_at": created_at}

    def delete_author(self, login: str | None = None) -> dict[str, Any]:
        """Delete an account. What it wrote stays, without an author; as on GitHub, `updatedAt` does not change."""
        threads = self._repository.threads.values()
        login = login or next(thread.author.login for thread in threads if thread.author)
        for thread in threads:
            items: list[Thread | Comment] = [thread, *thread.comments]
            for item in items:
                if item.author and item.author.login == login:
                    item.author = None
                for reaction in item.reactions:
                    if reaction.user and reaction.user.login == login:
                        reaction.user = None
        self._repository.stars = [star for star in self._repository.stars if star.user.login != login]
        return {"login": login}


def _seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())
