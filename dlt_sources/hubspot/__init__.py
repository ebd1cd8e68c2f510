"""HubSpot: companies, contacts, deals, tickets, products, quotes, what connects them, owners, pipelines and history.

The first load lists everything; later ones search for what was modified since. Every table merges on a key, so any
load can be repeated. What HubSpot does not report as a modification:

- Associations made from the other side may not count. They are loaded with the next change of their object.
- Values that HubSpot calculates for a new property. They are loaded with the next change of their object.
- Deletions. Deleted objects stay as they were; `soft_delete=True` marks them (`is_deleted`) while HubSpot still lists
  them.

`full_reload=True` reads everything again.

Variables: SOURCES__HUBSPOT__API_KEY (a private app's access token); optional SOURCES__HUBSPOT__API_BASE_URL,
SOURCES__HUBSPOT__MAX_WAIT and SOURCES__HUBSPOT__TIMEOUT (seconds).
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import dlt
from dlt.common.configuration.specs import BaseConfiguration
from dlt.common.schema.typing import TTableSchemaColumns
from dlt.extract import DltResource
from dlt.extract.hints import TResourceNestedHints

from dlt_sources.errors import PermanentSourceError
from dlt_sources.hubspot import columns, streams
from dlt_sources.hubspot.helpers import ASSOCIATIONS, CREATED, CRM, KINDS, MODIFIED, Node, value

__all__ = ["CREATED", "hubspot", "hubspot_total"]

WITH_PIPELINES = ("deals", "tickets")
# HubSpot's own choice for each type, and the owner.
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
STAGE_PROPERTY = re.compile(r"hs_(v2_)?date_(entered|exited)_(?!current_stage$)(.+)")


# `spec=BaseConfiguration` switches dlt's injection off: it would take `api_key` from any variable named API_KEY.
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

    `properties` names the properties to read, by type (`{"deals": ["dealname", "amount"]}`); other types have a few
    by default. `include_custom_props` adds all whose name does not begin with `hs_`: the account's own and HubSpot's
    business fields. `include_history` adds all earlier values of the properties, `soft_delete` archived objects.
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
            nested={other: columns.association(kind, other) for other in ASSOCIATIONS[kind]},
        )
        if include_history:
            yield _resource(
                _history(kind, selection, api_key, full_reload),
                f"{kind}_property_history",
                f"All values that properties of {kind} in HubSpot have had, one row per object, property and time.",
                ["object_id", "property_name", "timestamp"],
                columns.HISTORY,
            )
    for kind in WITH_PIPELINES:
        yield _resource(
            _pipelines(kind, api_key, full_reload),
            f"pipelines_{kind}",
            f"HubSpot's pipelines of {kind}, one row each, with their stages in a child table.",
            ["id"],
            columns.PIPELINE,
            {"stages": columns.STAGE},
        )
        yield _resource(
            _stages_timing(kind, api_key, full_reload),
            f"stages_timing_{kind}",
            f"When {kind} in HubSpot last entered and left each stage, one row per object and stage.",
            ["id", "stage"],
            columns.STAGE_TIMING,
        )
    yield _resource(
        _owners(api_key, full_reload),
        "owners",
        "Users who own objects in HubSpot, one row each, including former ones (`archived`).",
        ["id"],
        columns.OWNER,
        {"teams": columns.TEAM},
    )
    yield _resource(
        _properties(api_key, full_reload),
        "properties",
        "Definitions of HubSpot's properties, one row per type of object and property, with label, type and options.",
        ["object_type", "name"],
        columns.PROPERTY,
        {"options": columns.OPTION},
    )


def hubspot_total(kind: str, api_key: str | None = None, created_before: datetime | None = None) -> int:
    """The number of objects of a type (`deals`) that HubSpot counts now, to check a load.

    Those created after `created_before`, when the load began, are not counted.
    """
    return CRM(api_key).total(kind, created_before)


Rows = Callable[[], Iterator[Any]]
Selection = Callable[[CRM, str], dict[str, Node]]


def _resource(
    rows: Rows,
    name: str,
    description: str,
    primary_key: list[str],
    typed_columns: TTableSchemaColumns | None = None,
    nested: Mapping[str, TTableSchemaColumns] | None = None,
) -> DltResource:
    rows.__doc__ = description  # the catalogue shows it
    children: dict[str | Sequence[str], TResourceNestedHints] = {
        child: dlt.mark.make_nested_hints(columns=hints) for child, hints in (nested or {}).items()
    }
    return dlt.resource(
        rows,
        name=name,
        write_disposition="merge",
        primary_key=primary_key,
        columns=typed_columns or {},
        nested_hints=children,
    )


def _objects(kind: str, selection: Selection, api_key: str | None, soft_delete: bool, full_reload: bool) -> Rows:
    def objects() -> Iterator[Any]:
        crm, state = CRM(api_key), dlt.current.resource_state()
        properties = selection(crm, kind)
        typed = columns.of_object(kind, properties, soft_delete)
        yield dlt.mark.with_hints(dlt.mark.materialize_table_schema(), dlt.mark.make_hints(columns=typed))
        names, types = list(properties), {name: str(typed[name]["data_type"]) for name in properties}
        not_archived = {"is_deleted": False, "archived_at": None} if soft_delete else {}

        def rows(found: list[Node]) -> list[Node]:
            return [_row(kind, item, types) | not_archived for item in found]

        if soft_delete:  # before the others: an object that is archived in between is flagged by the next load
            archive = streams.Archive({} if full_reload else state.get("archived", {}))
            for page in crm.objects(kind, names, archived=True):
                new = archive.new(page)
                crm.complete(kind, new)
                yield [
                    _row(kind, item, types) | {"is_deleted": True, "archived_at": item["archivedAt"]} for item in new
                ]
            for page in crm.read(kind, archive.restored(), names):
                yield rows(page)
            state["archived"] = archive.times
        for page in streams.read(crm, kind, names, state, full_reload):
            yield rows(page)

    return objects


def _history(kind: str, selection: Selection, api_key: str | None, full_reload: bool) -> Rows:
    def history() -> Iterator[Any]:
        crm, state = CRM(api_key), dlt.current.resource_state()
        names = [name for name in selection(crm, kind) if name not in ("hs_object_id", MODIFIED[kind])]
        for page in streams.read(crm, kind, names, state, full_reload, history=True):
            yield [
                {"object_id": item["id"], "property_name": name} | entry
                for item in page
                for name, entries in (item.get("propertiesWithHistory") or {}).items()
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
        for page in streams.read(crm, kind, names, state, full_reload):
            for item in page:
                stages: dict[str, Node] = {}
                for name, match in sorted(matches.items()):  # HubSpot's newer `hs_v2_…` come last and take precedence
                    if moment := value(item["properties"].get(name), "timestamp"):
                        # The property's name has a normalized id of the stage, sometimes with a number after it.
                        stage = ids.get(match[3]) or ids.get(re.sub(r"_\d+$", "", match[3])) or match[3]
                        stages.setdefault(stage, {})[f"date_{match[2]}"] = moment
                yield [{"id": item["id"], "stage": stage} | times for stage, times in stages.items()]
        yield dlt.mark.materialize_table_schema()

    return stages_timing


def _owners(api_key: str | None, full_reload: bool) -> Rows:
    def owners() -> Iterator[Any]:
        yield from streams.new_or_changed(list(CRM(api_key).owners()), ["id"], full_reload)

    return owners


def _pipelines(kind: str, api_key: str | None, full_reload: bool) -> Rows:
    def pipelines() -> Iterator[Any]:
        yield from streams.new_or_changed(CRM(api_key).pipelines(kind), ["id"], full_reload)

    return pipelines


def _properties(api_key: str | None, full_reload: bool) -> Rows:
    def properties() -> Iterator[Any]:
        crm = CRM(api_key)
        rows = [{"object_type": kind} | item for kind in KINDS for item in crm.properties(kind).values()]
        yield from streams.new_or_changed(rows, ["object_type", "name"], full_reload)

    return properties


def _selection(
    kind: str, known: Mapping[str, Node], chosen: Sequence[str] | None, include_custom_props: bool
) -> dict[str, Node]:
    """The definitions of the properties to read, always with those for the object's id and its last change."""
    names = chosen if chosen is not None else [name for name in PROPERTIES[kind] if name in known]
    if unknown := [name for name in names if name not in known]:
        raise PermanentSourceError(f"HubSpot's {kind} have no property {', '.join(unknown)}: check `properties`.")
    custom = [name for name in known if include_custom_props and not name.startswith("hs_")]
    return {name: known[name] for name in [*names, "hs_object_id", MODIFIED[kind], *custom]}


def _row(kind: str, item: Node, types: Mapping[str, str]) -> Node:
    found = item["properties"]
    return (
        {"id": item["id"]}
        | {name: value(found.get(name), data_type) for name, data_type in types.items()}
        | {
            other: [{"value": item["id"], f"{other}_id": id_} for id_ in dict.fromkeys(item["associations"][other])]
            for other in ASSOCIATIONS[kind]
        }
    )
