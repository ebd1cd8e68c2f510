"""The events feed, oldest first: each entry has the payload of its type."""

from __future__ import annotations

from random import Random
from typing import Any

from sandbox.github import shapes
from sandbox.github.model import API, Actor, Event, Repository

FIRST_NUMBER = 40_000_000_000
STEP = 10  # leaves numbers free for events that arrive late
TYPES = {
    "PushEvent": 30,
    "IssueCommentEvent": 20,
    "IssuesEvent": 12,
    "PullRequestEvent": 12,
    "WatchEvent": 12,
    "CreateEvent": 6,
    "DeleteEvent": 4,
    "ForkEvent": 3,
    "ReleaseEvent": 1,
}


def payload(event_type: str, repository: Repository, actor: Actor, number: int, rng: Random) -> dict[str, Any]:
    """The payload of an event of this type about this repository. Raises ValueError for an unknown type."""
    threads = list(repository.threads.values())
    branch = f"change-{number // STEP % 1000}"
    match event_type:
        case "PushEvent":
            return {
                "repository_id": repository.database_id,
                "push_id": number // STEP,
                "ref": "refs/heads/main",
                "head": f"{rng.getrandbits(160):040x}",
                "before": f"{rng.getrandbits(160):040x}",
            }
        case "WatchEvent":
            return {"action": "started"}
        case "CreateEvent":
            return {
                "ref": branch,
                "ref_type": "branch",
                "full_ref": f"refs/heads/{branch}",
                "master_branch": "main",
                "description": repository.description,
                "pusher_type": "user",
            }
        case "DeleteEvent":
            return {
                "ref": branch,
                "ref_type": "branch",
                "full_ref": f"refs/heads/{branch}",
                "pusher_type": "user",
            }
        case "ForkEvent":
            fork = Repository(repository.serial, actor, repository.name, repository.description, repository.created_at)
            return {
                "action": "forked",
                "forkee": shapes.repository(fork, API) | {"fork": True, "public": True},
            }
        case "ReleaseEvent":
            return {"action": "published", "release": shapes.release(repository, actor, number, API)}
        case "IssuesEvent":
            issues = [thread for thread in threads if not thread.is_pull_request]
            return {
                "action": rng.choice(("opened", "closed")),
                "issue": shapes.issue(rng.choice(issues), API),
            }
        case "PullRequestEvent":
            thread = rng.choice([thread for thread in threads if thread.is_pull_request])
            action = rng.choice(("opened", "closed"))
            pull_request = shapes.pull_request_minimal(thread, API)
            return {"action": action, "number": thread.number, "pull_request": pull_request}
        case "IssueCommentEvent":
            comment = rng.choice([thread for thread in threads if thread.comments]).comments[-1]
            issue, text = shapes.issue(comment.thread, API), shapes.comment(comment, API)
            return {"action": "created", "issue": issue, "comment": text}
    raise ValueError(f"unknown event type {event_type!r}; known: {', '.join(TYPES)}")


def possible_types(repository: Repository) -> list[str]:
    """The event types for which this repository has rows."""
    threads = repository.threads.values()
    absent = set()
    if not any(thread.is_pull_request for thread in threads):
        absent.add("PullRequestEvent")
    if all(thread.is_pull_request for thread in threads):
        absent.add("IssuesEvent")
    if not any(thread.comments for thread in threads):
        absent.add("IssueCommentEvent")
    return [name for name in TYPES if name not in absent]


def generate(repository: Repository, times: list[str], actors: list[Actor], rng: Random) -> list[Event]:
    """One event per time, in that order."""
    types = possible_types(repository)
    picked = rng.choices(types, [TYPES[name] for name in types], k=len(times))
    events = []
    for index, (event_type, created_at) in enumerate(zip(picked, times, strict=True)):
        number = FIRST_NUMBER + repository.serial * 100_000 + index * STEP
        actor = rng.choice(actors)
        events.append(Event(number, event_type, actor, payload(event_type, repository, actor, number, rng), created_at))
    return events
