"""HubSpot: companies, contacts, deals, tickets, products, quotes, what connects them, owners, pipelines and history.

The first load lists everything, the next ones search for what was modified since. All of it merges on a key. What
HubSpot does not report as modified stays unseen: an association made from one side may not count for the other, and
a new property that HubSpot fills in by itself comes with the next change of its object, or with `full_reload=True`.
Deleted objects stay as they were; `soft_delete=True` marks them (`is_deleted`), as long as HubSpot remembers them.

Variables: SOURCES__HUBSPOT__API_KEY (a private app's access token); optional SOURCES__HUBSPOT__API_BASE_URL,
SOURCES__HUBSPOT__MAX_WAIT and SOURCES__HUBSPOT__TIMEOUT (seconds).
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import dlt
from dlt.common import json
from dlt.common.configuration.specs import BaseConfiguration
from dlt.common.data_types import TDataType
from dlt.common.schema.typing import TColumnSchema
from dlt.common.utils import digest128
from dlt.extract import DltResource
from dlt.extract.hints import TResourceNestedHints

from dlt_sources.http import PermanentSourceError
from dlt_sources.hubspot.helpers import ASSOCIATIONS, CREATED, CRM, KINDS, MODIFIED, Node, milliseconds, value

__all__ = ["CREATED", "hubspot", "hubspot_total"]

WITH_PIPELINES = ("deals", "tickets")
# HubSpot's own choice for each type, and who it belongs to.
PROPERTIES: Mapping[str, Sequence[str]] = {
    "companies": ("name", "domain", "hubspot_owner_id", "createdate"),
    "contacts": ("email", "firstname", "lastname", "hubspot_owner_id", "createdate"),
    "deals": ("dealname", "amount", "closedate", "dealstage", "pipeline", "hubspot_owner_id", "createdate"),
    "tickets": (
        "subject",
        "content",
        "hs_pipeline",
        "hs_pipeline_stage",
        "hs_ticket_category",
        "hs_ticket_priority",
        "hubspot_owner_id",
        "createdate",
    ),
    "products": ("name", "description", "price", "hubspot_owner_id", "createdate"),
    "quotes": ("hs_title", "hs_status", "hs_expiration_date", "hs_public_url_key", "hs_createdate"),
}
TYPES: Mapping[str, TDataType] = {"bool": "bool", "number": "double", "date": "date", "datetime": "timestamp"}
STAGE_PROPERTY = re.compile(r"hs_(v2_)?date_(entered|exited)_(?!current_stage$)(.+)")

# HubSpot's search learns of a change some moments late: what was modified so shortly before the cursor is looked for
# again. What of it is loaded already is known by its time, and left out.
OVERLAP_MILLISECONDS = 15 * 60 * 1000


# `spec=BaseConfiguration` switches dlt's injection off: it would fill `api_key` from a bare API_KEY, whoever's that is.
@dlt.source(name="hubspot", section="hubspot", spec=BaseConfiguration)
def hubspot(
    api_key: str | None = None,
    include_history: bool = False,
    soft_delete: bool = False,
    include_custom_props: bool = True,
    properties: Mapping[str, Sequence[str]] | None = None,
    full_reload: bool = False,
) -> Iterator[DltResource]:
    """The CRM of a HubSpot account.

    `properties` names the properties to read, by type (`{"deals": ["dealname", "amount"]}`); a type that it does not
    name has a usual few. `include_custom_props` adds all whose name does not begin with `hs_`: the account's own and
    HubSpot's business fields. `include_history` adds all values that they had, `soft_delete` archived objects.
    """
    chosen = properties or {}
    if unknown := chosen.keys() - PROPERTIES.keys():
        raise ValueError(f"properties names {', '.join(sorted(unknown))}; known are {', '.join(PROPERTIES)}")

    def selection(crm: CRM, kind: str) -> dict[str, Node]:
        return _selection(kind, crm.properties(kind), chosen.get(kind), include_custom_props)

    for kind in KINDS:
        yield _resource(
            _objects(kind, selection, api_key, soft_delete, full_reload),
            kind,
            f"{kind.capitalize()} in HubSpot, one row each, with a column per property and a table per association.",
            ["id"],
            nested={other: _columns(f"value {other}_id") for other in ASSOCIATIONS[kind]},
        )
        if include_history:
            yield _resource(
                _history(kind, selection, api_key, full_reload),
                f"{kind}_property_history",
                f"All values that the properties of {kind} in HubSpot had, one row per object, property and time.",
                ["object_id", "property_name", "timestamp"],
                _HISTORY_COLUMNS,
            )
    for kind in WITH_PIPELINES:
        yield _resource(
            _pipelines(kind, api_key, full_reload),
            f"pipelines_{kind}",
            f"HubSpot's pipelines of {kind}, one row each, with their stages in a table of their own.",
            ["id"],
            _PIPELINE_COLUMNS,
            {"stages": _STAGE_COLUMNS},
        )
        yield _resource(
            _stages_timing(kind, api_key, full_reload),
            f"stages_timing_{kind}",
            f"When {kind} in HubSpot entered and left each stage, last time: one row per object and stage.",
            ["id", "stage"],
            _TIMING_COLUMNS,
        )
    yield _resource(
        _owners(api_key, full_reload),
        "owners",
        "HubSpot's users who own objects, one row each, former ones (`archived`) too.",
        ["id"],
        _OWNER_COLUMNS,
        {"teams": _TEAM_COLUMNS},
    )
    yield _resource(
        _properties(api_key, full_reload),
        "properties",
        "What HubSpot's properties mean: one row per type of object and property, with label, type and options.",
        ["object_type", "name"],
        _PROPERTY_COLUMNS,
        {"options": _OPTION_COLUMNS},
    )


def hubspot_total(kind: str, api_key: str | None = None, created_before: datetime | None = None) -> int:
    """How many objects of a type (`deals`) HubSpot counts now, to check a load against.

    Those created after `created_before` do not count: a load that began then cannot have seen them.
    """
    return CRM(api_key).total(kind, created_before)


Columns = dict[str, TColumnSchema]
Rows = Callable[[], Iterator[Any]]
Selection = Callable[[CRM, str], dict[str, Node]]


def _resource(
    rows: Rows,
    name: str,
    description: str,
    primary_key: list[str],
    columns: Columns | None = None,
    nested: Mapping[str, Columns] | None = None,
) -> DltResource:
    rows.__doc__ = description  # the catalogue shows it
    children: dict[str | Sequence[str], TResourceNestedHints] = {
        child: dlt.mark.make_nested_hints(columns=typed) for child, typed in (nested or {}).items()
    }
    return dlt.resource(
        rows,
        name=name,
        write_disposition="merge",
        primary_key=primary_key,
        columns=columns or {},
        nested_hints=children,
    )


def _objects(kind: str, selection: Selection, api_key: str | None, soft_delete: bool, full_reload: bool) -> Rows:
    def objects() -> Iterator[Any]:
        crm, state = CRM(api_key), dlt.current.resource_state()
        properties = selection(crm, kind)
        columns = _object_columns(kind, properties, soft_delete)
        yield _typed(columns)
        names, types = list(properties), {name: str(columns[name]["data_type"]) for name in properties}
        living = {"is_deleted": False, "archived_at": None} if soft_delete else {}

        def rows(found: list[Node], flags: Node) -> list[Node]:
            return [_row(kind, one, types) | flags for one in found]

        if soft_delete:  # before the others: what is archived in between comes next time
            loaded: dict[str, str] = {} if full_reload else state.get("archived", {})
            archived: dict[str, str] = {}
            for page in crm.objects(kind, names, archived=True):
                archived |= {one["id"]: one["archivedAt"] for one in page}
                fresh = [one for one in page if loaded.get(one["id"]) != one["archivedAt"]]
                crm.complete(kind, fresh)
                yield [row | {"archived_at": archived[row["id"]]} for row in rows(fresh, {"is_deleted": True})]
            for page in crm.read(kind, [id_ for id_ in loaded if id_ not in archived], names):
                yield rows(page, living)  # restored
            state["archived"] = archived
        for page in _read(crm, kind, names, state, full_reload):
            yield rows(page, living)

    return objects


def _history(kind: str, selection: Selection, api_key: str | None, full_reload: bool) -> Rows:
    def history() -> Iterator[Any]:
        crm, state = CRM(api_key), dlt.current.resource_state()
        names = [name for name in selection(crm, kind) if name not in ("hs_object_id", MODIFIED[kind])]
        for page in _read(crm, kind, names, state, full_reload, history=True):
            yield [
                {"object_id": one["id"], "property_name": name} | entry
                for one in page
                for name, entries in (one.get("propertiesWithHistory") or {}).items()
                for entry in entries
            ]
        yield dlt.mark.materialize_table_schema()

    return history


def _stages_timing(kind: str, api_key: str | None, full_reload: bool) -> Rows:
    def stages_timing() -> Iterator[Any]:
        crm, state = CRM(api_key), dlt.current.resource_state()
        ids = {
            re.sub(r"\W", "_", stage["id"].lower()): stage["id"]
            for pipeline in crm.pipelines(kind)
            for stage in pipeline["stages"]
        }
        matches = {name: match for name in crm.properties(kind) if (match := STAGE_PROPERTY.fullmatch(name))}
        names = [*matches, MODIFIED[kind]]
        for page in _read(crm, kind, names, state, full_reload):
            for one in page:
                stages: dict[str, Node] = {}
                for name, match in sorted(matches.items()):  # HubSpot's newer `hs_v2_…` come last, and win
                    if moment := value(one["properties"].get(name), "timestamp"):
                        # HubSpot makes names of ids that are none, and may add a number.
                        stage = ids.get(match[3]) or ids.get(re.sub(r"_\d+$", "", match[3])) or match[3]
                        stages.setdefault(stage, {})[f"date_{match[2]}"] = moment
                yield [{"id": one["id"], "stage": stage} | times for stage, times in stages.items()]
        yield dlt.mark.materialize_table_schema()

    return stages_timing


def _owners(api_key: str | None, full_reload: bool) -> Rows:
    def owners() -> Iterator[Any]:
        yield from _new_or_changed(list(CRM(api_key).owners()), ["id"], full_reload)

    return owners


def _pipelines(kind: str, api_key: str | None, full_reload: bool) -> Rows:
    def pipelines() -> Iterator[Any]:
        yield from _new_or_changed(CRM(api_key).pipelines(kind), ["id"], full_reload)

    return pipelines


def _properties(api_key: str | None, full_reload: bool) -> Rows:
    def properties() -> Iterator[Any]:
        crm = CRM(api_key)
        rows = [{"object_type": kind} | one for kind in KINDS for one in crm.properties(kind).values()]
        yield from _new_or_changed(rows, ["object_type", "name"], full_reload)

    return properties


def _new_or_changed(rows: list[Node], key: Sequence[str], full_reload: bool) -> Iterator[Any]:
    """Short lists, which HubSpot cannot search: read whole, loaded where they differ from the last time."""
    state = dlt.current.resource_state()
    known = {} if full_reload else state.get("digests", {})
    digests = {"/".join(row[name] for name in key): digest128(json.dumps(row)) for row in rows}
    state["digests"] = digests
    yield [row for row, (name, digest) in zip(rows, digests.items(), strict=True) if known.get(name) != digest]
    yield dlt.mark.materialize_table_schema()


def _read(
    crm: CRM, kind: str, names: Sequence[str], state: dict[str, Any], full_reload: bool, history: bool = False
) -> Iterator[list[Node]]:
    """Pages of objects that are new or were modified since the last load: all of them the first time.

    The cursor is what the search knew before a list began, or how far a search came: a list takes a while, and what
    changes behind its back is newer than that. `seen` has the times of the objects that a next load would find again.
    dlt drops the state of a load that fails.
    """
    known = {} if full_reload else dict(state)
    first = "cursor" not in known
    cursor: int = (crm.newest(kind) or 0) if first else known["cursor"]
    seen: dict[str, int] = dict(known.get("seen", {}))
    since = cursor - OVERLAP_MILLISECONDS

    def note(objects: list[Node]) -> list[Node]:
        times = {one["id"]: milliseconds(one["properties"][MODIFIED[kind]]) for one in objects}
        seen.update((id_, moment) for id_, moment in times.items() if moment >= since)
        return objects

    if first:
        for page in crm.objects(kind, names, history=history):
            if not history:
                crm.complete(kind, page)
            yield note(page)
    else:
        for found in crm.changed(kind, since):
            fresh = [id_ for id_, moment in found if seen.get(id_, -1) < moment]
            for page in crm.read(kind, fresh, names, history):
                yield note(page)
            cursor = max([cursor, *(moment for _, moment in found)])
    if cursor:  # else there was nothing
        state["cursor"] = cursor
        state["seen"] = {id_: at for id_, at in seen.items() if at >= cursor - OVERLAP_MILLISECONDS}


def _selection(
    kind: str, known: Mapping[str, Node], chosen: Sequence[str] | None, include_custom_props: bool
) -> dict[str, Node]:
    """The definitions of the properties to read; those that name and date the object are always among them."""
    names = chosen if chosen is not None else [name for name in PROPERTIES[kind] if name in known]
    if unknown := [name for name in names if name not in known]:
        raise PermanentSourceError(f"HubSpot's {kind} have no property {', '.join(unknown)}: check `properties`.")
    custom = [name for name in known if include_custom_props and not name.startswith("hs_")]
    return {name: known[name] for name in [*names, "hs_object_id", MODIFIED[kind], *custom]}


def _row(kind: str, one: Node, types: Mapping[str, str]) -> Node:
    found = one["properties"]
    return (
        {"id": one["id"]}
        | {name: value(found.get(name), data_type) for name, data_type in types.items()}
        | {
            other: [{"value": one["id"], f"{other}_id": id_} for id_ in dict.fromkeys(one["associations"][other])]
            for other in ASSOCIATIONS[kind]
        }
    )


def _typed(columns: Columns) -> Any:
    """Columns that are known only now, typed, so that they exist even while they are null."""
    return dlt.mark.with_hints(dlt.mark.materialize_table_schema(), dlt.mark.make_hints(columns=columns))


def _object_columns(kind: str, properties: Mapping[str, Node], soft_delete: bool) -> Columns:
    columns = _columns("id is_deleted:bool archived_at:timestamp" if soft_delete else "id")
    for name, definition in properties.items():
        data_type = TYPES.get(definition["type"], "text") if name != "hs_object_id" else "text"  # a name, no amount
        columns[name] = {"name": name, "data_type": data_type}
        if description := definition.get("description") or definition.get("label"):
            columns[name]["description"] = description
    # What changes while it is read comes twice in one load: the later state of it wins.
    columns[MODIFIED[kind]]["dedup_sort"] = "desc"
    return columns


def _columns(*names: str) -> Columns:
    """Columns in order, text unless a colon says otherwise."""
    typed = (name.partition(":") for part in names for name in part.split())
    return {name: {"name": name, "data_type": kind or "text"} for name, _, kind in typed}  # type: ignore[typeddict-item]


_HISTORY_COLUMNS = _columns(
    "object_id property_name value timestamp:timestamp source_type source_id source_label updated_by_user_id:bigint"
)
_TIMING_COLUMNS = _columns("id stage date_entered:timestamp date_exited:timestamp")
_ITEM = "id label display_order:bigint archived:bool created_at:timestamp updated_at:timestamp"
_PIPELINE_COLUMNS = _columns(_ITEM)
_STAGE_COLUMNS = _columns(_ITEM, "write_permissions metadata__is_closed:bool metadata__probability:double")
_OWNER_COLUMNS = _columns(
    "id email type first_name last_name user_id:bigint user_id_including_inactive:bigint archived:bool",
    "created_at:timestamp updated_at:timestamp",
)
_TEAM_COLUMNS = _columns("id name primary:bool")
_PROPERTY_COLUMNS = _columns(
    "object_type name label description type field_type group_name hubspot_defined:bool calculated:bool archived:bool",
    "created_at:timestamp updated_at:timestamp",
)
_OPTION_COLUMNS = _columns("value label description display_order:bigint hidden:bool")
