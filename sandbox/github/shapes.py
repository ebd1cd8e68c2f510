"""The JSON of GitHub's REST API, by the names of its description. `api` is the address that the client used."""

from __future__ import annotations

from typing import Any

from sandbox.github.model import REACTIONS, Actor, Comment, Event, Repository, Star, Thread

Json = dict[str, Any]
ROLLUP = dict(zip(REACTIONS, ("+1", "-1", "laugh", "hooray", "confused", "heart", "rocket", "eyes"), strict=True))


def user(actor: Actor | None, api: str) -> Json | None:
    """`simple-user`; None for a deleted account."""
    if actor is None:
        return None
    url = f"{api}/users/{actor.login}"
    return {
        "login": actor.login,
        "id": actor.database_id,
        "node_id": actor.id,
        "avatar_url": actor.avatar_url,
        "gravatar_id": "",
        "url": url,
        "html_url": actor.url,
        "followers_url": f"{url}/followers",
        "following_url": f"{url}/following{{/other_user}}",
        "gists_url": f"{url}/gists{{/gist_id}}",
        "starred_url": f"{url}/starred{{/owner}}{{/repo}}",
        "subscriptions_url": f"{url}/subscriptions",
        "organizations_url": f"{url}/orgs",
        "repos_url": f"{url}/repos",
        "events_url": f"{url}/events{{/privacy}}",
        "received_events_url": f"{url}/received_events",
        "type": actor.typename,
        "site_admin": False,
    }


def rollup(item: Thread | Comment, url: str) -> Json:
    """`reaction-rollup`: the number of reactions of each kind."""
    counts: Json = {"url": f"{url}/reactions", "total_count": len(item.reactions)}
    counts.update(dict.fromkeys(ROLLUP.values(), 0))
    for reaction in item.reactions:
        counts[ROLLUP[reaction.content]] += 1
    return counts


def issue(thread: Thread, api: str) -> Json:
    """`issue`. Pull requests are issues too, with the key `pull_request`."""
    repo_url = f"{api}/repos/{thread.repository.full_name}"
    url = f"{repo_url}/issues/{thread.number}"
    row: Json = {
        "url": url,
        "repository_url": repo_url,
        "labels_url": f"{url}/labels{{/name}}",
        "comments_url": f"{url}/comments",
        "events_url": f"{url}/events",
        "html_url": thread.url,
        "id": thread.database_id,
        "node_id": thread.id,
        "number": thread.number,
        "title": thread.title,
        "user": user(thread.author, api),
        "labels": [],
        "state": "closed" if thread.closed else "open",
        "locked": False,
        "assignee": None,
        "assignees": [],
        "milestone": None,
        "comments": len(thread.comments),
        "created_at": thread.created_at,
        "updated_at": thread.updated_at,
        "closed_at": thread.closed_at,
        "author_association": thread.author_association,
        "active_lock_reason": None,
        "body": thread.body,
        "reactions": rollup(thread, url),
        "state_reason": None,
    }
    if thread.is_pull_request:
        row["draft"] = False
        row["pull_request"] = {
            "url": f"{repo_url}/pulls/{thread.number}",
            "html_url": thread.url,
            "diff_url": f"{thread.url}.diff",
            "patch_url": f"{thread.url}.patch",
            "merged_at": thread.merged_at,
        }
    return row


def comment(item: Comment, api: str) -> Json:
    """`issue-comment`."""
    repo_url = f"{api}/repos/{item.repository.full_name}"
    url = f"{repo_url}/issues/comments/{item.database_id}"
    return {
        "url": url,
        "html_url": item.url,
        "issue_url": f"{repo_url}/issues/{item.thread.number}",
        "id": item.database_id,
        "node_id": item.id,
        "user": user(item.author, api),
        "created_at": item.created_at,
        "updated_at": item.updated_at,
        "body": item.body,
        "author_association": item.author_association,
        "reactions": rollup(item, url),
        "performed_via_github_app": None,
    }


def stargazer(star: Star, api: str) -> Json:
    """`stargazer`, the format of the star media type."""
    return {"starred_at": star.starred_at, "user": user(star.user, api)}


def event(item: Event, repository: Repository, api: str) -> Json:
    """`event`. The payload is as it was when the event happened."""
    actor = item.actor
    return {
        "id": str(item.number),
        "type": item.type,
        "actor": {
            "id": actor.database_id,
            "login": actor.login,
            "display_login": actor.login,
            "gravatar_id": "",
            "url": f"{api}/users/{actor.login}",
            "avatar_url": actor.avatar_url,
        },
        "repo": {
            "id": repository.database_id,
            "name": repository.full_name,
            "url": f"{api}/repos/{repository.full_name}",
        },
        "payload": item.payload,
        "public": True,
        "created_at": item.created_at,
    }


def pull_request_minimal(thread: Thread, api: str) -> Json:
    """`pull-request-minimal`, which the events feed embeds."""
    repo = {
        "id": thread.repository.database_id,
        "url": f"{api}/repos/{thread.repository.full_name}",
        "name": thread.repository.name,
    }
    return {
        "id": thread.database_id,
        "number": thread.number,
        "url": f"{api}/repos/{thread.repository.full_name}/pulls/{thread.number}",
        "head": {"ref": f"change-{thread.number}", "sha": f"{thread.number:040x}", "repo": repo},
        "base": {"ref": "main", "sha": f"{thread.database_id:040x}", "repo": repo},
    }


def repository(repo: Repository, api: str) -> Json:
    """`full-repository`."""
    url = f"{api}/repos/{repo.full_name}"
    open_threads = sum(not thread.closed for thread in repo.threads.values())
    row: Json = {
        "id": repo.database_id,
        "node_id": repo.id,
        "name": repo.name,
        "full_name": repo.full_name,
        "private": False,
        "owner": user(repo.owner, api),
        "html_url": repo.url,
        "description": repo.description,
        "fork": False,
        "url": url,
        "created_at": repo.created_at,
        "updated_at": repo.updated_at,
        "pushed_at": repo.updated_at,
        "git_url": f"{repo.url.replace('https:', 'git:')}.git",
        "ssh_url": f"{repo.url.replace('https://', 'git@')}.git",
        "clone_url": f"{repo.url}.git",
        "svn_url": repo.url,
        "homepage": None,
        "mirror_url": None,
        "language": None,
        "license": None,
        "default_branch": "main",
        "visibility": "public",
        "topics": [],
        "archived": False,
        "disabled": False,
        "is_template": False,
        "allow_forking": True,
        "has_issues": True,
        "has_projects": False,
        "has_wiki": False,
        "has_pages": False,
        "has_downloads": False,
        "has_discussions": False,
        "size": 0,
        "forks": 0,
        "forks_count": 0,
        "network_count": 0,
        "open_issues": open_threads,
        "open_issues_count": open_threads,
        "stargazers_count": len(repo.stars),
        "watchers": len(repo.stars),
        "watchers_count": len(repo.stars),
        "subscribers_count": 0,
    }
    row.update({name: f"{url}/{path}" for name, path in REPOSITORY_URLS.items()})
    return row


REPOSITORY_URLS = {
    "archive_url": "{archive_format}{/ref}",
    "assignees_url": "assignees{/user}",
    "blobs_url": "git/blobs{/sha}",
    "branches_url": "branches{/branch}",
    "collaborators_url": "collaborators{/collaborator}",
    "comments_url": "comments{/number}",
    "commits_url": "commits{/sha}",
    "compare_url": "compare/{base}...{head}",
    "contents_url": "contents/{+path}",
    "contributors_url": "contributors",
    "deployments_url": "deployments",
    "downloads_url": "downloads",
    "events_url": "events",
    "forks_url": "forks",
    "git_commits_url": "git/commits{/sha}",
    "git_refs_url": "git/refs{/sha}",
    "git_tags_url": "git/tags{/sha}",
    "hooks_url": "hooks",
    "issue_comment_url": "issues/comments{/number}",
    "issue_events_url": "issues/events{/number}",
    "issues_url": "issues{/number}",
    "keys_url": "keys{/key_id}",
    "labels_url": "labels{/name}",
    "languages_url": "languages",
    "merges_url": "merges",
    "milestones_url": "milestones{/number}",
    "notifications_url": "notifications{?since,all,participating}",
    "pulls_url": "pulls{/number}",
    "releases_url": "releases{/id}",
    "stargazers_url": "stargazers",
    "statuses_url": "statuses/{sha}",
    "subscribers_url": "subscribers",
    "subscription_url": "subscription",
    "tags_url": "tags",
    "teams_url": "teams",
    "trees_url": "git/trees{/sha}",
}


def release(repo: Repository, author: Actor, number: int, api: str) -> Json:
    """`release`; its version is derived from the event's number."""
    tag = f"v1.{number // 10 % 1000}.0"
    url = f"{api}/repos/{repo.full_name}/releases/{number % 1_000_000}"
    return {
        "url": url,
        "html_url": f"{repo.url}/releases/tag/{tag}",
        "assets_url": f"{url}/assets",
        "upload_url": f"{url}/assets{{?name,label}}",
        "tarball_url": f"{api}/repos/{repo.full_name}/tarball/{tag}",
        "zipball_url": f"{api}/repos/{repo.full_name}/zipball/{tag}",
        "id": number % 1_000_000,
        "node_id": f"RE_{number}",
        "tag_name": tag,
        "target_commitish": "main",
        "name": tag,
        "body": None,
        "draft": False,
        "prerelease": False,
        "created_at": repo.created_at,
        "published_at": repo.created_at,
        "author": user(author, api),
        "assets": [],
    }
