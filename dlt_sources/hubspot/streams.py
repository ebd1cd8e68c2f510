"""Which objects are new or changed since the last load."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dlt
from dlt.common import json
from dlt.common.utils import digest128

from dlt_sources.hubspot.helpers import CRM, MODIFIED, Node, milliseconds

# HubSpot's search finds a change only moments after it was made.
OVERLAP = 15 * 60 * 1000  # milliseconds


class Cursor:
    """The newest change of a type that was found, in milliseconds.

    Each load searches again from OVERLAP before the cursor, for changes that the search found late. `seen` has the
    modification times of the objects loaded from there on, so that they are not loaded twice.
    """

    def __init__(self, kind: str, newest: int, seen: Mapping[str, int]) -> None:
        self.since = newest - OVERLAP
        self._kind = kind
        self._newest = newest
        self._seen = dict(seen)

    def new(self, found: list[tuple[str, int]]) -> list[str]:
        """The ids of the objects found that are not loaded in this state."""
        return [id_ for id_, modified in found if self._seen.get(id_, -1) < modified]

    def note(self, objects: list[Node]) -> None:
        """Remember objects that are loaded now."""
        for loaded in objects:
            modified = milliseconds(loaded["properties"][MODIFIED[self._kind]])
            if modified >= self.since:
                self._seen[loaded["id"]] = modified

    def advance(self, found: list[tuple[str, int]]) -> None:
        """Move to the newest of the objects found."""
        self._newest = max([self._newest, *(modified for _, modified in found)])

    def save(self, state: dict[str, Any]) -> None:
        if self._newest:  # else there are no objects
            state["cursor"] = self._newest
            state["seen"] = {id_: at for id_, at in self._seen.items() if at >= self._newest - OVERLAP}


def read(
    crm: CRM, kind: str, names: Sequence[str], state: dict[str, Any], full_reload: bool, history: bool = False
) -> Iterator[list[Node]]:
    """Pages of the objects that are new or changed since the last load; the first load lists all of them."""
    if full_reload or "cursor" not in state:
        # Asked before the list begins: objects that change while it is read are newer, and found by the next load.
        cursor = Cursor(kind, crm.newest(kind) or 0, {})
        for page in crm.objects(kind, names, history=history):
            if not history:
                crm.complete(kind, page)
            cursor.note(page)
            yield page
    else:
        cursor = Cursor(kind, state["cursor"], state.get("seen", {}))
        for found in crm.changed(kind, cursor.since):
            for page in crm.read(kind, cursor.new(found), names, history):
                cursor.note(page)
                yield page
            cursor.advance(found)
    cursor.save(state)  # dlt discards the state if the load fails


class Archive:
    """The archived objects of a type, each with the time of it: which are newly archived, and which restored."""

    def __init__(self, loaded: Mapping[str, str]) -> None:
        self._loaded = loaded
        self.times: dict[str, str] = {}

    def new(self, page: list[Node]) -> list[Node]:
        """The objects of a page that were not archived at that time when they were last loaded."""
        self.times |= {archived["id"]: archived["archivedAt"] for archived in page}
        return [archived for archived in page if self._loaded.get(archived["id"]) != archived["archivedAt"]]

    def restored(self) -> list[str]:
        """The ids of the objects that are no longer archived, once all pages were passed to `new`."""
        return [id_ for id_ in self._loaded if id_ not in self.times]


def new_or_changed(rows: list[Node], key: Sequence[str], full_reload: bool) -> Iterator[Any]:
    """The rows of a short list that differ from those of the last load: HubSpot has no search for such lists."""
    state = dlt.current.resource_state()
    known = {} if full_reload else state.get("digests", {})
    digests = {"/".join(row[name] for name in key): digest128(json.dumps(row)) for row in rows}
    state["digests"] = digests
    yield [row for row, (name, digest) in zip(rows, digests.items(), strict=True) if known.get(name) != digest]
    yield dlt.mark.materialize_table_schema()
