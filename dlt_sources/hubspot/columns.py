"""What the columns of HubSpot's tables mean. Those of an object's properties are described by HubSpot itself."""

from collections.abc import Mapping

from dlt.common.data_types import TDataType
from dlt.common.schema.typing import TTableSchemaColumns

from dlt_sources.columns import columns
from dlt_sources.hubspot.helpers import MODIFIED, Node

TYPES: Mapping[str, TDataType] = {"bool": "bool", "number": "double", "date": "date", "datetime": "timestamp"}

HISTORY = columns(
    object_id=("text", "Object whose property had the value: `id` of the objects' table."),
    property_name=("text", "Internal name of the property: `properties.name`."),
    value=("text", "The value as text, in HubSpot's notation."),
    timestamp=("timestamp", "When the property got the value (UTC)."),
    source_type=("text", "What set the value, such as CRM_UI, API, IMPORT or WORKFLOW."),
    source_id=("text", "Id of what set the value, such as a user, an import or a workflow."),
    source_label=("text", "Name of what set the value."),
    updated_by_user_id=("bigint", "User who set the value: `owners.user_id_including_inactive`; null for automation."),
)
STAGE_TIMING = columns(
    id=("text", "Object that was in the stage: `id` of the objects' table."),
    stage=("text", "Stage: `id` of the table `pipelines_…__stages`."),
    date_entered=("timestamp", "When the object last entered the stage (UTC)."),
    date_exited=("timestamp", "When the object last left the stage (UTC); null while it is there."),
)
PIPELINE = columns(
    id=("text", "HubSpot's id of the pipeline: the property `pipeline` of deals, `hs_pipeline` of tickets."),
    label=("text", "Name of the pipeline in HubSpot."),
    display_order=("bigint", "Position of the pipeline in HubSpot."),
    archived=("bool", "Whether the pipeline is archived."),
    created_at=("timestamp", "When the pipeline was created (UTC); 1970 for HubSpot's default pipelines."),
    updated_at=("timestamp", "When the pipeline last changed (UTC)."),
)
STAGE = columns(
    id=("text", "HubSpot's id of the stage: the property `dealstage` of deals, `hs_pipeline_stage` of tickets."),
    label=("text", "Name of the stage in HubSpot."),
    display_order=("bigint", "Position of the stage in its pipeline."),
    archived=("bool", "Whether the stage is archived."),
    created_at=("timestamp", "When the stage was created (UTC); 1970 for those of HubSpot's default pipelines."),
    updated_at=("timestamp", "When the stage last changed (UTC)."),
    write_permissions=("text", "Who may move objects: CRM_PERMISSIONS_ENFORCEMENT, READ_ONLY or INTERNAL_ONLY."),
    metadata__is_closed=("bool", "Whether objects in the stage are closed."),
    metadata__probability=("double", "Probability that a deal in the stage is won, from 0 to 1; null for tickets."),
)
OWNER = columns(
    id=("text", "HubSpot's id of the owner: the property `hubspot_owner_id` of objects."),
    email=("text", "E-mail address of the owner."),
    type=("text", "PERSON or QUEUE."),
    first_name=("text", "First name of the owner."),
    last_name=("text", "Last name of the owner."),
    user_id=("bigint", "HubSpot's id of the owner's user account; null for former users."),
    user_id_including_inactive=("bigint", "HubSpot's id of the owner's user account, for former users too."),
    archived=("bool", "Whether the owner is a former user."),
    created_at=("timestamp", "When the owner was created (UTC)."),
    updated_at=("timestamp", "When the owner last changed (UTC)."),
)
TEAM = columns(
    id=("text", "HubSpot's id of a team that the owner belongs to."),
    name=("text", "Name of the team."),
    primary=("bool", "Whether it is the owner's main team."),
)
PROPERTY = columns(
    object_type=("text", "Type of the objects that have the property, such as deals."),
    name=("text", "Internal name of the property: the column of the objects' table."),
    label=("text", "Name of the property in HubSpot."),
    description=("text", "Description of the property in HubSpot."),
    type=("text", "Type of the values: string, number, bool, enumeration, date or datetime."),
    field_type=("text", "How HubSpot shows the property, such as text, textarea, select or checkbox."),
    group_name=("text", "Group of properties that it belongs to in HubSpot."),
    hubspot_defined=("bool", "Whether HubSpot defines the property; else the account does."),
    calculated=("bool", "Whether HubSpot calculates the values."),
    archived=("bool", "Whether the property is archived."),
    created_at=("timestamp", "When the property was created (UTC)."),
    updated_at=("timestamp", "When the definition of the property last changed (UTC)."),
)
OPTION = columns(
    value=("text", "Internal value of the option, as in the objects' table."),
    label=("text", "Name of the option in HubSpot."),
    description=("text", "Description of the option in HubSpot."),
    display_order=("bigint", "Position of the option in HubSpot; -1 means at the end."),
    hidden=("bool", "Whether HubSpot no longer offers the option."),
)


def association(kind: str, other: str) -> TTableSchemaColumns:
    """The table of the objects of a type (`deals`) and those of another that they are associated with."""
    associated: dict[str, tuple[TDataType, str]] = {f"{other}_id": ("text", f"Associated object: `{other}.id`.")}
    return columns(value=("text", f"Object: `{kind}.id`."), **associated)


def of_object(kind: str, properties: Mapping[str, Node], soft_delete: bool) -> TTableSchemaColumns:
    """The table of the objects of a type. Its columns are known only during the load."""
    found = columns(id=("text", "HubSpot's id of the object."))
    if soft_delete:
        found |= columns(
            is_deleted=("bool", "Whether the object is archived (deleted) in HubSpot."),
            archived_at=("timestamp", "When the object was archived (UTC); null if it is not."),
        )
    for name, definition in properties.items():
        data_type = TYPES.get(definition["type"], "text") if name != "hs_object_id" else "text"  # like other ids
        found[name] = {"name": name, "data_type": data_type}
        if description := definition.get("description") or definition.get("label"):
            found[name]["description"] = description
    # An object that changes during a load arrives twice: the later state wins.
    found[MODIFIED[kind]]["dedup_sort"] = "desc"
    return found
