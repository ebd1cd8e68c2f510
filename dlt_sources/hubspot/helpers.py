"""HubSpot's CRM API: complete objects, put together from lists, searches and batches."""

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from dlt.common.utils import chunks
from dlt.sources.helpers.requests import Response

from dlt_sources.errors import TransientSourceError
from dlt_sources.http import ApiClient, Limit, seconds_until_reset

Node = dict[str, Any]

# HubSpot's maxima per request: https://developers.hubspot.com/docs/api-reference/search/guide#limitations
LIST_LIMIT, HISTORY_LIMIT, SEARCH_LIMIT, OWNERS_LIMIT = 100, 50, 200, 500
ASSOCIATIONS_LIMIT = 1_000
PROPERTIES_IN_URL = 2_000  # characters
LIMITS = {
    "SECONDLY": ("search limit", 1.0),
    "TEN_SECONDLY_ROLLING": ("rate limit of ten seconds", 10.0),
    "DAILY": ("daily limit", 86_400.0),  # until midnight in the account's time zone, which HubSpot does not report
}

ASSOCIATIONS: dict[str, tuple[str, ...]] = {
    "companies": ("contacts", "deals", "tickets", "quotes"),
    "contacts": ("companies", "deals", "tickets", "quotes"),
    "deals": ("companies", "contacts", "tickets", "quotes"),
    "tickets": ("companies", "contacts", "deals"),
    "products": (),
    "quotes": ("companies", "contacts", "deals"),
}
KINDS = tuple(ASSOCIATIONS)
MODIFIED = dict.fromkeys(KINDS, "hs_lastmodifieddate") | {"contacts": "lastmodifieddate"}
CREATED = dict.fromkeys(KINDS, "createdate") | {"quotes": "hs_createdate"}


def _read_limit(response: Response) -> Limit | None:
    """HubSpot names the limit in the body and rarely reports a time in the headers."""
    if response.status_code != 429:
        return None
    try:
        policy = str(response.json().get("policyName"))
    except (ValueError, AttributeError):
        policy = ""
    name, usual = LIMITS.get(policy, LIMITS["TEN_SECONDLY_ROLLING"])
    wait = seconds_until_reset(response)
    return Limit(name, usual if wait is None else wait)


HUBSPOT = ApiClient(
    source="hubspot",
    title="HubSpot",
    credential="api_key",
    base_url="https://api.hubapi.com",
    permission="the private app's scopes for reading (crm.objects.….read, crm.schemas.….read, tickets, e-commerce)",
    read_limit=_read_limit,
)


def milliseconds(moment: str | datetime) -> int:
    """A time in the form of HubSpot's search."""
    moment = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return round(moment.timestamp() * 1000)


class CRM:
    """One HubSpot account."""

    def __init__(self, api_key: str | None = None) -> None:
        self._client = HUBSPOT.rest_client(api_key)

    def properties(self, kind: str) -> dict[str, Node]:
        """The definitions of a type's properties, by name."""
        found = self._get(f"crm/v3/properties/{kind}", {})["results"]
        return {definition["name"]: definition for definition in found}

    def pipelines(self, kind: str) -> list[Node]:
        """The pipelines of a type, each with its stages."""
        found: list[Node] = self._get(f"crm/v3/pipelines/{kind}", {})["results"]
        return found

    def owners(self) -> Iterator[Node]:
        """All owners, including former ones, whom old objects still refer to."""
        for archived in ("false", "true"):
            for _, page in self._pages("crm/v3/owners", {"limit": OWNERS_LIMIT, "archived": archived}):
                yield from page

    def objects(
        self, kind: str, names: Sequence[str], archived: bool = False, history: bool = False
    ) -> Iterator[list[Node]]:
        """Pages of all objects of a type; with `history`, with all values that the properties have had.

        `names` that are too long for one URL are split over several requests per page. A page begins after an id, so
        these return the same objects; one that is archived between two of them is left out.
        """
        first, *rest = _chunks(names)
        which = "propertiesWithHistory" if history else "properties"
        params: Node = {"limit": HISTORY_LIMIT if history else LIST_LIMIT, "archived": str(archived).lower()}
        params |= {"properties": MODIFIED[kind]}
        linked = {"associations": ",".join(ASSOCIATIONS[kind])} if ASSOCIATIONS[kind] and not history else {}
        path = f"crm/v3/objects/{kind}"
        for place, page in self._pages(path, params | {which: first} | linked):
            objects = {found["id"]: found for found in page}
            for chunk in rest:
                objects = _joined(objects, self._get(path, params | place | {which: chunk})["results"])
            yield list(objects.values())

    def changed(self, kind: str, since: int) -> Iterator[list[tuple[str, int]]]:
        """Ids and modification times (milliseconds) of the objects modified since then; some come twice.

        Each search begins at the last time of the previous one instead of asking for its next page: HubSpot ends a
        search after 10,000 rows, and an object that changes during it would shift the pages. If more objects than fit
        on a page changed in the same millisecond (imports, workflows), the rest is searched by id.
        """
        modified = MODIFIED[kind]
        while True:
            answer = self._search(kind, {modified: ("GTE", since)}, modified)
            page = [(found["id"], milliseconds(found["properties"][modified])) for found in answer["results"]]
            yield page
            if "paging" not in answer:
                return
            newest = page[-1][1]
            if newest == since:
                yield from ([(id_, since) for id_ in ids] for ids in self._modified_at(kind, since))
                since += 1
            else:
                since = newest

    def _modified_at(self, kind: str, moment: int) -> Iterator[list[str]]:
        """Ids of all objects modified in that millisecond."""
        last = 0
        while True:
            filters = {MODIFIED[kind]: ("EQ", moment), "hs_object_id": ("GT", last)}
            answer = self._search(kind, filters, "hs_object_id")
            ids = [found["id"] for found in answer["results"]]
            yield ids
            if "paging" not in answer:
                return
            last = int(ids[-1])

    def newest(self, kind: str) -> int | None:
        """When an object of the type was last modified, as far as the search knows; None if there are no objects."""
        found = self._search(kind, {}, MODIFIED[kind], "DESCENDING", limit=1)["results"]
        return milliseconds(found[0]["properties"][MODIFIED[kind]]) if found else None

    def total(self, kind: str, created_before: datetime | None = None) -> int:
        """The number of objects of the type."""
        filters = {CREATED[kind]: ("LTE", milliseconds(created_before))} if created_before else {}
        return int(self._search(kind, filters, "hs_object_id", limit=1)["total"])

    def read(self, kind: str, ids: Sequence[str], names: Sequence[str], history: bool = False) -> Iterator[list[Node]]:
        """Complete objects by their ids, in batches, without those that no longer exist.

        A search would return them too, but late, without associations, and with only a few properties.
        """
        which = {
            "properties": [MODIFIED[kind]] if history else names,
            "propertiesWithHistory": names if history else [],
        }
        for batch in chunks(ids, HISTORY_LIMIT if history else LIST_LIMIT):
            body = which | {"inputs": [{"id": id_} for id_ in batch]}
            objects = self._post_batch(f"crm/v3/objects/{kind}/batch/read", body)
            if not history:
                for other in ASSOCIATIONS[kind]:
                    linked = self._linked(kind, other, [found["id"] for found in objects])
                    for found in objects:
                        found.setdefault("associations", {})[other] = linked.get(found["id"], [])
            yield objects

    def complete(self, kind: str, objects: list[Node]) -> None:
        """Turn the associations of listed objects into lists of ids, complete: a list has only the first hundred."""
        for other in ASSOCIATIONS[kind]:
            pages = {found["id"]: (found.get("associations") or {}).get(other) or {} for found in objects}
            long = self._linked(kind, other, [id_ for id_, page in pages.items() if "paging" in page])
            for found in objects:
                listed = [link["id"] for link in pages[found["id"]].get("results", ())]
                found.setdefault("associations", {})[other] = long.get(found["id"]) or listed

    def _linked(self, kind: str, other: str, ids: Collection[str]) -> dict[str, list[str]]:
        """The ids of all objects of type `other` that each object is associated with, by the object's id."""
        linked: dict[str, list[str]] = {}
        inputs = [{"id": id_} for id_ in ids]
        while inputs:
            now, inputs = inputs[:ASSOCIATIONS_LIMIT], inputs[ASSOCIATIONS_LIMIT:]
            for found in self._post_batch(f"crm/v4/associations/{kind}/{other}/batch/read", {"inputs": now}):
                id_ = str(found["from"]["id"])
                linked.setdefault(id_, []).extend(str(link["toObjectId"]) for link in found["to"])
                if after := ((found.get("paging") or {}).get("next") or {}).get("after"):
                    inputs.append({"id": id_, "after": after})
        return linked

    def _search(
        self,
        kind: str,
        filters: dict[str, tuple[str, int]],
        sort: str,
        direction: str = "ASCENDING",
        limit: int = SEARCH_LIMIT,
    ) -> Node:
        body = {
            "filterGroups": [
                {
                    "filters": [
                        {"propertyName": name, "operator": operator, "value": str(value)}
                        for name, (operator, value) in filters.items()
                    ]
                }
            ]
            if filters
            else [],
            "sorts": [{"propertyName": sort, "direction": direction}],
            "properties": [MODIFIED[kind]],
            "limit": limit,
        }
        return self._body(self._client.post(f"crm/v3/objects/{kind}/search", json=body))

    def _pages(self, path: str, params: Node) -> Iterator[tuple[Node, list[Node]]]:
        """The pages of a list, each with the parameter for where it begins."""
        place: Node = {}
        while True:
            answer = self._get(path, params | place)
            yield place, answer["results"]
            after = ((answer.get("paging") or {}).get("next") or {}).get("after")
            if after is None:
                return
            place = {"after": after}

    def _get(self, path: str, params: Node) -> Node:
        return self._body(self._client.get(path, params=params))

    def _post_batch(self, path: str, body: Node) -> list[Node]:
        answer = self._body(self._client.post(path, json=body))
        for error in answer.get("errors") or ():  # with status 207; a missing object is no failure
            if error.get("category") != "OBJECT_NOT_FOUND":
                raise TransientSourceError(f"HubSpot returned only a part at {path} ({error.get('message')}).")
        found: list[Node] = answer["results"]
        return found

    def _body(self, response: Response) -> Node:
        body = HUBSPOT.body(response)
        if not isinstance(body, dict) or not isinstance(body.get("results"), list):
            raise TransientSourceError(f"HubSpot sent JSON without results at {response.url.partition('?')[0]}.")
        return body


def value(text: str | None, data_type: str) -> Any:
    """A property's value for a column of that type; dlt itself converts text to numbers, flags and times."""
    if data_type == "text" or text is None:
        return text
    if data_type == "timestamp" and text.lstrip("-").isdigit():
        return datetime.fromtimestamp(int(text) / 1000, UTC)
    return text or None  # a property that was emptied


def _chunks(names: Sequence[str]) -> Iterator[str]:
    """The names, separated by commas, in pieces that fit into a URL."""
    chunk = names[0]
    for name in names[1:]:
        if len(chunk) + 1 + len(name) > PROPERTIES_IN_URL:
            yield chunk
            chunk = name
        else:
            chunk += f",{name}"
    yield chunk


def _joined(objects: dict[str, Node], more: list[Node]) -> dict[str, Node]:
    joined = {}
    for found in more:
        if known := objects.get(found["id"]):
            for key in ("properties", "propertiesWithHistory"):
                known[key] = (known.get(key) or {}) | (found.get(key) or {})
            joined[found["id"]] = known
    return joined
