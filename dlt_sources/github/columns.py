"""What the columns of GitHub's tables mean."""

from collections.abc import Sequence

import dlt
from dlt.common.schema.typing import TTableSchemaColumns
from dlt.extract.hints import TResourceNestedHints

from dlt_sources.columns import columns


def _author(what: str) -> TTableSchemaColumns:
    return columns(
        author_association=("text", "Author's relation to the repository: OWNER, MEMBER, CONTRIBUTOR, NONE, …"),
        author__login=("text", f"GitHub account that wrote the {what}; null if it was deleted."),
        author__avatar_url=("text", "Address of the author's picture."),
        author__url=("text", "Address of the author's profile."),
    )


def _user(what: str) -> TTableSchemaColumns:
    return columns(
        user__login=("text", f"GitHub account that {what}; null if it was deleted."),
        user__avatar_url=("text", "Address of the account's picture."),
        user__url=("text", "Address of the account's profile."),
    )


_REPOSITORY = columns(
    repository_owner=("text", "User or organization that owns the repository."),
    repository_name=("text", "Name of the repository, without its owner."),
)

# Issues and pull requests.
THREAD = (
    _REPOSITORY
    | columns(
        number=("bigint", "Number within the repository; issues and pull requests share one sequence."),
        url=("text", "Address of the page on GitHub."),
        title=("text", "Title."),
        body=("text", "Text of the description, in Markdown."),
        state=("text", "OPEN or CLOSED; a merged pull request is MERGED."),
        closed=("bool", "Whether it is closed or merged."),
    )
    | _author("issue or pull request")
    | columns(
        created_at=("timestamp", "When it was opened (UTC)."),
        updated_at=("timestamp", "When it last changed (UTC). A new reaction is not a change."),
        closed_at=("timestamp", "When it was closed or merged (UTC); null while it is open."),
        reactions_total_count=("bigint", "Number of reactions; each is a row of `…__reactions`."),
        comments_total_count=(
            "bigint",
            "Number of comments, without code reviews; each is a row of `…__comments`.",
        ),
    )
)
STARGAZER = (
    _REPOSITORY
    | _user("starred the repository")
    | columns(starred_at=("timestamp", "When the account starred the repository (UTC)."))
)
# Of every type of event; the columns of `payload__…` depend on the type.
EVENT = _REPOSITORY | columns(
    id=("text", "GitHub's id of the event."),
    type=("text", "Type of the event, such as PushEvent: each type has a table."),
    created_at=("timestamp", "When the event happened (UTC). GitHub reports some events up to six hours late."),
    public=("bool", "Whether everybody may see the event."),
    actor__id=("bigint", "GitHub's id of the account that caused the event."),
    actor__login=("text", "Name of the account that caused the event."),
    repo__id=("bigint", "GitHub's id of the repository: it stays the same when the repository is renamed."),
    repo__name=("text", "Owner and name of the repository when the event happened."),
)

_REACTIONS = dlt.mark.make_nested_hints(
    columns=columns(
        content=("text", "The reaction: THUMBS_UP, THUMBS_DOWN, LAUGH, HOORAY, CONFUSED, HEART, ROCKET or EYES."),
        created_at=("timestamp", "When the account reacted (UTC)."),
    )
    | _user("reacted")
)
_COMMENTS = dlt.mark.make_nested_hints(
    columns=columns(
        id=("text", "GitHub's id of the comment."),
        url=("text", "Address of the comment on GitHub."),
        body=("text", "Text of the comment, in Markdown."),
        created_at=("timestamp", "When the comment was written (UTC)."),
    )
    | _author("comment")
    | columns(reactions_total_count=("bigint", "Number of reactions to the comment; null if there are none."))
)
THREAD_CHILDREN: dict[str | Sequence[str], TResourceNestedHints] = {
    "reactions": _REACTIONS,
    "comments": _COMMENTS,
    ("comments", "reactions"): _REACTIONS,
}

# A row that changes during a load arrives twice: the later state wins.
THREAD["updated_at"]["dedup_sort"] = "desc"
STARGAZER["starred_at"]["dedup_sort"] = "desc"
