"""HubSpot's CRM API as this source needs it: whole objects, joined from lists, searches and batches."""

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from dlt.common.utils import chunks
from dlt.sources.helpers.requests import Response
from dlt.sources.helpers.rest_client.auth import BearerTokenAuth

from dlt_sources.http import Limit, TransientSourceError, Vendor, seconds_until_reset

Node = dict[str, Any]

# What HubSpot takes at once: https://developers.hubspot.com/docs/api-reference/search/guide#limitations
LIST_LIMIT, HISTORY_LIMIT, SEARCH_LIMIT, OWNERS_LIMIT = 100, 50, 200, 500
ASSOCIATIONS_LIMIT = 1_000
PROPERTIES_IN_URL = 2_000  # characters
LIMITS = {
    "SECONDLY": ("search limit", 1.0),
    "TEN_SECONDLY_ROLLING": ("rate limit of ten seconds", 10.0),
    "DAILY": ("daily limit", 86_400.0),  # until the account's midnight, which HubSpot does not name: a day at most
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
    """HubSpot names the limit in the body, and seldom a time in the headers."""
    if response.status_code != 429:
        return None
    try:
        policy = str(response.json().get("policyName"))
    except (ValueError, AttributeError):
        policy = ""
    name, usual = LIMITS.get(policy, LIMITS["TEN_SECONDLY_ROLLING"])
    wait = seconds_until_reset(response)
    return Limit(name, usual if wait is None else wait)


HUBSPOT = Vendor(
    source="hubspot",
    title="HubSpot",
    credential="api_key",
    base_url="https://api.hubapi.com",
    permission="the private app's scopes to read (crm.objects.….read, crm.schemas.….read, tickets, e-commerce)",
    read_limit=_read_limit,
)


def milliseconds(moment: str | datetime) -> int:
    """A time as HubSpot's search takes it."""
    moment = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return round(moment.timestamp() * 1000)


class CRM:
    """One HubSpot account."""

    def __init__(self, api_key: str | None = None) -> None:
        token = HUBSPOT.secret(api_key)
        self._client = HUBSPOT.client(token, BearerTokenAuth(token))

    def properties(self, kind: str) -> dict[str, Node]:
        """The definitions of a type's properties, by name."""
        found = self._get(f"crm/v3/properties/{kind}", {})["results"]
        return {definition["name"]: definition for definition in found}

    def pipelines(self, kind: str) -> list[Node]:
        """The pipelines of a type, each with its stages."""
        found: list[Node] = self._get(f"crm/v3/pipelines/{kind}", {})["results"]
        return found

    def owners(self) -> Iterator[Node]:
        """All owners, former ones too: old objects still name them."""
        for archived in ("false", "true"):
            for _, page in self._pages("crm/v3/owners", {"limit": OWNERS_LIMIT, "archived": archived}):
                yield from page

    def objects(
        self, kind: str, names: Sequence[str], archived: bool = False, history: bool = False
    ) -> Iterator[list[Node]]:
        """Pages of all objects of a type; with `history` of all values that the properties ever had.

        `names` that are too long for one address are asked for in turn, page by page. A page begins behind an id, so
        the answers hold the same objects; one that is archived between two answers is left out.
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
        """Ids of the objects modified at `since` (milliseconds) or later, each with the time of it; some come twice.

        Each search begins at the last time of the one before, instead of asking for its next page: HubSpot ends
        after 10,000 rows, and an object that changes meanwhile would move the others across the edge of a page. Of a
        moment with more objects than a page (imports, workflows) the rest is found by id.
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
                yield from ([(id_, since) for id_ in ids] for ids in self._of_moment(kind, since))
                since += 1
            else:
                since = newest

    def _of_moment(self, kind: str, moment: int) -> Iterator[list[str]]:
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
        """When an object of the type was last modified, as far as the search knows; None if there is none."""
        found = self._search(kind, {}, MODIFIED[kind], "DESCENDING", limit=1)["results"]
        return milliseconds(found[0]["properties"][MODIFIED[kind]]) if found else None

    def total(self, kind: str, created_before: datetime | None = None) -> int:
        """How many objects of the type there are."""
        filters = {CREATED[kind]: ("LTE", milliseconds(created_before))} if created_before else {}
        return int(self._search(kind, filters, "hs_object_id", limit=1)["total"])

    def read(self, kind: str, ids: Sequence[str], names: Sequence[str], history: bool = False) -> Iterator[list[Node]]:
        """Whole objects by their ids, in batches, without those that are gone.

        The search has them too, but late, without associations, and its body takes few names of properties.
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
        """Turn the associations of listed objects into lists of ids; a list holds only the first hundred of each."""
        for other in ASSOCIATIONS[kind]:
            pages = {found["id"]: (found.get("associations") or {}).get(other) or {} for found in objects}
            cut = self._linked(kind, other, [id_ for id_, page in pages.items() if "paging" in page])
            for found in objects:
                listed = [link["id"] for link in pages[found["id"]].get("results", ())]
                found.setdefault("associations", {})[other] = cut.get(found["id"]) or listed

    def _linked(self, kind: str, other: str, ids: Collection[str]) -> dict[str, list[str]]:
        """All ids of a type that objects are associated with, by the id of the object."""
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
        """The pages of a list, each with the parameter that says where it begins."""
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
        for error in answer.get("errors") or ():  # with 207; that something is not there is no failure
            if error.get("category") != "OBJECT_NOT_FOUND":
                raise TransientSourceError(f"HubSpot read a part only at {path} ({error.get('message')}).")
        found: list[Node] = answer["results"]
        return found

    def _body(self, response: Response) -> Node:
        body = HUBSPOT.body(response)
        if not isinstance(body, dict) or not isinstance(body.get("results"), list):
            raise TransientSourceError(f"HubSpot sent JSON without results at {response.url.partition('?')[0]}.")
        return body


def value(text: str | None, data_type: str) -> Any:
    """A property's value for a column of that type; dlt reads numbers, flags and times from text by itself."""
    if data_type == "text" or text is None:
        return text
    if data_type == "timestamp" and text.lstrip("-").isdigit():
        return datetime.fromtimestamp(int(text) / 1000, UTC)
    return text or None  # emptied


def _chunks(names: Sequence[str]) -> Iterator[str]:
    """The names, separated by commas, in pieces that fit an address."""
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
