"""Generates repositories: the same seed and size give the same bytes on every machine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random

from sandbox.github import events
from sandbox.github.model import REACTIONS, Actor, Comment, Reaction, Repository, Star, Thread

START = int(datetime(2024, 1, 2, 8, tzinfo=UTC).timestamp())
END = int(datetime(2026, 6, 28, 18, tzinfo=UTC).timestamp())
PEOPLE = 240  # authors; there are more stargazers than that

FIRST = (
    *("ada", "alan", "anita", "barbara", "brian", "carol", "dana", "dennis", "edsger"),
    *("frances", "grace", "ivan", "jean", "john", "karen", "ken", "linus", "margaret"),
)
LAST = (
    *("archer", "baker", "cole", "dyer", "fisher", "glover", "hooper", "joiner"),
    *("kemp", "mason", "naylor", "potter", "reeve", "sawyer", "tanner", "walker"),
)
NOUNS = (
    *("loader", "schema", "cursor", "partition", "column", "table", "pipeline", "schedule"),
    *("warehouse", "token", "page", "run", "asset", "sensor", "key"),
)
VERBS = (
    *("drops", "repeats", "loses", "skips", "renames", "truncates", "duplicates", "delays"),
    *("rejects", "ignores", "reorders", "retries"),
)
TAILS = (
    "after a restart",
    "when the page is empty",
    "on the second run",
    "with a null value",
    "during a backfill",
    "since the last release",
    "for large tables",
    "behind a proxy",
    "when two runs overlap",
)
ASSOCIATIONS = ("NONE", "NONE", "CONTRIBUTOR", "CONTRIBUTOR", "MEMBER", "COLLABORATOR", "OWNER")
ODD_TEXTS = (
    "",
    "Grüße aus Zürich and naïve café, 日本語のテキスト, 한국어, Ελληνικά",
    "🚀🎉 family 👨‍👩‍👧‍👦, flag 🇨🇭, thumbs 👍🏽",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd \u202e mixed \u202c \u0645\u0631\u062d\u0628\u0627",
    "quotes \" ' ` and \\ backslash, <b>tags</b> & entities, {braces}, %s, $1, NULL, tab\tline\r\nend",
)


@dataclass(frozen=True)
class Size:
    """How many rows a repository has. With `exact`, every issue and pull request has exactly so many comments and
    reactions; otherwise the numbers vary, and these are about the largest."""

    issues: int = 0
    pull_requests: int = 0
    stargazers: int = 0
    events: int = 0
    comments_per_issue: int = 0
    comments_per_pull_request: int = 0
    reactions_per_issue: int = 0
    reactions_per_comment: int = 0
    exact: bool = True
    edge_cases: bool = False


BUILT_IN = {
    "handbook": Size(130, 60, 90, 260, 6, 5, 5, 2, exact=False, edge_cases=True),
    "website": Size(300, 200, 450, 300, 4, 3, 3, 1, exact=False),
    "engine": Size(5_000, 800, 2_500, 300, 1, 2, 1, 0, exact=False),
    "empty": Size(),
}


def at(seconds: int) -> str:
    """A Unix time as GitHub writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def person(number: int) -> Actor:
    """The account with this number; every tenth of the first hundred is a bot."""
    first, last = FIRST[number % len(FIRST)], LAST[number // len(FIRST) % len(LAST)]
    if number < 100 and number % 10 == 9:
        return Actor(f"{first}-bot", 1_000 + number, "Bot")
    return Actor(f"{first}-{last}{number}", 1_000 + number, name=f"{first.title()} {last.title()}")


class Generator:
    """Generates one repository."""

    def __init__(self, owner: Actor, name: str, serial: int, size: Size, seed: int) -> None:
        self.rng = Random(f"{seed}/{owner.login}/{name}")  # noqa: S311 - has to be repeatable
        self.size = size
        self.people = [person(number) for number in range(PEOPLE)]
        self.users = [actor for actor in self.people if actor.typename == "User"]
        self.repository = Repository(serial, owner, name, f"Rows for trying out loads: {name}", at(START - 3_600))

    def build(self) -> Repository:
        """The whole repository. The order of the steps matters: each draws from the same random numbers."""
        repository, size, rng = self.repository, self.size, self.rng
        kinds = ["Issue"] * size.issues + ["PullRequest"] * size.pull_requests
        rng.shuffle(kinds)
        for number, (kind, created) in enumerate(zip(kinds, self.times(len(kinds)), strict=True), start=1):
            self.thread(kind, number, created)
        if size.edge_cases:
            self.edge_cases()
        self.settle()
        gazers = [person(number) for number in range(100, 100 + size.stargazers)]
        rng.shuffle(gazers)
        stars = zip(self.times(size.stargazers), gazers, strict=True)
        ordered = sorted(((at(when), user) for when, user in stars), key=lambda pair: (pair[0], pair[1].database_id))
        repository.stars = [Star(starred_at, user) for starred_at, user in ordered]
        times = [at(END - 86_400 * 30 + index * 7_200) for index in range(size.events)]
        repository.events = events.generate(repository, times, self.users, rng)
        for actor in (repository.owner, *self.people, *gazers):
            repository.nodes[actor.id] = actor
        return repository

    def times(self, count: int) -> list[int]:
        """Ascending times, some of them in the same second."""
        moments = sorted(self.rng.randrange(START, END - 86_400 * 20) for _ in range(count))
        for index in range(1, count):
            if self.rng.random() < 0.08:
                moments[index] = moments[index - 1]
        return moments

    def sentence(self) -> str:
        """One line of plain text."""
        rng = self.rng
        return f"The {rng.choice(NOUNS)} {rng.choice(VERBS)} the {rng.choice(NOUNS)} {rng.choice(TAILS)}"

    def author(self) -> Actor | None:
        """A random author; in a repository with edge cases, some accounts are deleted."""
        return None if self.size.edge_cases and self.rng.random() < 0.04 else self.rng.choice(self.people)

    def amount(self, most: int) -> int:
        """A number of comments or reactions, mostly small."""
        return most if self.size.exact or most == 0 else int(self.rng.random() ** 2 * (most + 1) * 1.4)

    def thread(self, kind: str, number: int, created: int) -> None:
        """An issue or pull request with its comments and reactions."""
        rng, size, pull_request = self.rng, self.size, kind == "PullRequest"
        state = rng.choice(("OPEN", "MERGED", "MERGED", "CLOSED") if pull_request else ("OPEN", "CLOSED", "CLOSED"))
        closed = min(created + rng.randrange(600, 86_400 * 40), END) if state != "OPEN" else None
        thread = Thread(
            typename=kind,
            repository=self.repository,
            number=number,
            author=self.author(),
            author_association=rng.choice(ASSOCIATIONS),
            title=self.sentence(),
            body=f"{self.sentence()}.\n\n{self.sentence()}.",
            state=state,
            created_at=at(created),
            updated_at=at(created),
            closed_at=at(closed) if closed else None,
            merged_at=at(closed) if closed and state == "MERGED" else None,
        )
        self.repository.add(thread)
        self.react(thread, created, self.amount(size.reactions_per_issue))
        self.comment(thread, self.amount(size.comments_per_pull_request if pull_request else size.comments_per_issue))

    def comment(self, thread: Thread, count: int) -> None:
        """Append comments, each later than the previous one or in the same second."""
        rng = self.rng
        last = thread.comments[-1].created_at if thread.comments else thread.created_at
        moment = int(datetime.fromisoformat(last).timestamp())
        for _ in range(count):
            moment = min(moment + rng.choice((0, 60, 3_600, 40_000)) + rng.randrange(2), END)
            edited = min(moment + rng.choice((0, 0, 0, 900)), END)
            comment = Comment(
                database_id=self.repository.next_id(),
                thread=thread,
                author=self.author(),
                author_association=rng.choice(ASSOCIATIONS),
                body=f"{self.sentence()}.",
                created_at=at(moment),
                updated_at=at(edited),
            )
            self.repository.add(comment)
            self.react(comment, moment, self.amount(self.size.reactions_per_comment))

    def react(self, item: Thread | Comment, moment: int, count: int) -> None:
        """Append reactions; no user gives the same reaction twice."""
        given = {(reaction.user, reaction.content) for reaction in item.reactions}
        place, goal = self.rng.randrange(len(self.users)), len(item.reactions) + count
        while len(item.reactions) < goal:
            place += 1
            user, content = (
                self.users[place % len(self.users)],
                REACTIONS[min(int(self.rng.random() ** 2 * 8), 7)],
            )
            if (user, content) in given:
                continue
            given.add((user, content))
            moment = min(moment + self.rng.randrange(0, 5_000), END)
            self.repository.add(Reaction(self.repository.next_id(), content, at(moment), user, item))

    def settle(self) -> None:
        """Set each thread's time of the last change. A bot's bulk edits give many threads the same second."""
        bulk_edits = [at(self.rng.randrange(START, END)) for _ in range(12)]
        for thread in self.repository.threads.values():
            latest = [comment.updated_at for comment in thread.comments]
            thread.updated_at = max([thread.created_at, thread.closed_at or "", *latest])
            later = [edit for edit in bulk_edits if edit > thread.updated_at]
            if later and self.rng.random() < 0.3:
                thread.updated_at = self.rng.choice(later)

    def edge_cases(self) -> None:
        """What breaks loaders: more children than fit on a page, deleted accounts, unusual text."""
        issues = list(self.repository.of_type("Issue"))
        busy, loved, ghost = issues[5], issues[8], issues[11]
        self.comment(busy, 132)
        self.react(loved, START + 86_400 * 100, 125)
        self.comment(issues[14], 1)
        self.react(issues[14].comments[-1], START + 86_400 * 200, 115)
        busy.author = ghost.author = busy.comments[3].author = None
        loved.reactions[2].user = None
        for thread, text in zip(issues[20:], ODD_TEXTS, strict=False):
            thread.body, thread.title = text, text or thread.title
        issues[30].body = "A line of a very long report. " * 2_100
        pull_request = next(self.repository.of_type("PullRequest"))
        pull_request.author = None
        self.comment(pull_request, 104)
        self.react(pull_request, START + 86_400 * 300, 103)
