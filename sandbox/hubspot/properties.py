"""The definitions of an account: the object types, their properties and their pipelines."""

from __future__ import annotations

import re
from typing import Any

KINDS = ("companies", "contacts", "deals", "tickets", "products", "quotes")
SINGULAR = {"companies": "company"} | {kind: kind.removesuffix("s") for kind in KINDS[1:]}
TYPE_IDS = {
    "companies": "0-2",
    "contacts": "0-1",
    "deals": "0-3",
    "tickets": "0-5",
    "products": "0-7",
    "quotes": "0-14",
}
ASSOCIATED = {
    "companies": ("contacts", "deals", "tickets", "quotes"),
    "contacts": ("companies", "deals", "tickets", "quotes"),
    "deals": ("companies", "contacts", "tickets", "quotes"),
    "tickets": ("companies", "contacts", "deals"),
    "products": (),
    "quotes": ("companies", "contacts", "deals"),
}
MODIFIED = dict.fromkeys(KINDS, "hs_lastmodifieddate") | {"contacts": "lastmodifieddate"}
CREATED = dict.fromkeys(KINDS, "createdate") | {"quotes": "hs_createdate"}
# The properties in a response if the request names none.
DEFAULTS = {
    "companies": ("createdate", "domain", "hs_lastmodifieddate", "hs_object_id", "name"),
    "contacts": ("createdate", "email", "firstname", "hs_object_id", "lastmodifieddate", "lastname"),
    "deals": (
        "amount",
        "closedate",
        "createdate",
        "dealname",
        "dealstage",
        "hs_lastmodifieddate",
        "hs_object_id",
        "pipeline",
    ),
    "tickets": (
        "content",
        "createdate",
        "hs_lastmodifieddate",
        "hs_object_id",
        "hs_pipeline",
        "hs_pipeline_stage",
        "hs_ticket_category",
        "hs_ticket_priority",
        "subject",
    ),
    "products": ("createdate", "description", "hs_lastmodifieddate", "hs_object_id", "name", "price"),
    "quotes": (
        "hs_createdate",
        "hs_expiration_date",
        "hs_lastmodifieddate",
        "hs_object_id",
        "hs_public_url_key",
        "hs_status",
        "hs_title",
    ),
}
STAGE = {"deals": ("pipeline", "dealstage"), "tickets": ("hs_pipeline", "hs_pipeline_stage")}
PIPELINES = {
    "deals": {
        ("default", "Sales"): {
            "appointmentscheduled": ("Appointment scheduled", "0.2"),
            "qualifiedtobuy": ("Qualified to buy", "0.4"),
            "contractsent": ("Contract sent", "0.9"),
            "closedwon": ("Closed won", "1.0"),
            "closedlost": ("Closed lost", "0.0"),
        },
        ("178001", "Partners"): {
            "178002": ("Introduced", "0.3"),
            "178003": ("Won", "1.0"),
            "7f0c3a4e-55d1-4b7e-9a0e-1c2d3e4f5a6b": ("Lost", "0.0"),  # the format of new ids
        },
    },
    "tickets": {
        ("0", "Support"): {
            "1": ("New", "OPEN"),
            "2": ("Waiting on contact", "OPEN"),
            "3": ("Waiting on us", "OPEN"),
            "4": ("Closed", "CLOSED"),
        },
    },
}
INDUSTRIES = ("COMPUTER_SOFTWARE", "LOGISTICS", "RETAIL", "UTILITIES")

# HubSpot's own properties and, below, this account's custom properties: name and type.
_COMMON = "hs_object_id:number hs_lastmodifieddate:datetime createdate:datetime hubspot_owner_id:enumeration"
HUBSPOT_DEFINED = {
    "companies": f"{_COMMON} name domain city country phone:phone_number industry:enumeration "
    "numberofemployees:number annualrevenue:number hs_is_target_account:bool",
    "contacts": "hs_object_id:number lastmodifieddate:datetime createdate:datetime hubspot_owner_id:enumeration "
    "email firstname lastname phone:phone_number lifecyclestage:enumeration hs_email_optout:bool",
    "deals": f"{_COMMON} dealname amount:number dealstage:enumeration pipeline:enumeration closedate:datetime "
    "dealtype:enumeration hs_is_closed:bool",
    "tickets": f"{_COMMON} subject content hs_pipeline:enumeration hs_pipeline_stage:enumeration "
    "hs_ticket_priority:enumeration hs_ticket_category:enumeration",
    "products": f"{_COMMON} name description price:number hs_sku",
    "quotes": "hs_object_id:number hs_lastmodifieddate:datetime hs_createdate:datetime hs_title "
    "hs_status:enumeration hs_expiration_date:date hs_public_url_key hs_quote_amount:number",
}
CUSTOM = {
    "companies": "customer_tier:enumeration is_partner:bool contract_start:date last_audit_at:datetime "
    "credit_score:number internal_note",
    "contacts": "newsletter:bool birthday:date last_training_at:datetime satisfaction:number "
    "interests:enumeration nickname " + " ".join(f"survey_answer_{number:03}" for number in range(1, 131)),
    "deals": "discount_percent:number is_renewal:bool go_live:date approved_at:datetime "
    "product_lines:enumeration competitor",
    "tickets": "escalated:bool promised_on:date first_reply_at:datetime effort_hours:number "
    "root_cause:enumeration workaround",
    "products": "is_bundle:bool available_from:date price_checked_at:datetime weight_kg:number family:enumeration note",
    "quotes": "legal_review:bool signed_on:date sent_at:datetime margin_percent:number template:enumeration remark",
}
OPTIONS = {
    "customer_tier": ("gold", "silver", "bronze"),
    "interests": ("pricing", "roadmap", "training"),
    "product_lines": ("core", "analytics", "support"),
    "root_cause": ("bug", "question", "outage"),
    "family": ("hardware", "software"),
    "template": ("short", "long"),
    "industry": INDUSTRIES,
    "lifecyclestage": ("lead", "opportunity", "customer"),
    "dealtype": ("newbusiness", "existingbusiness"),
    "hs_ticket_priority": ("LOW", "MEDIUM", "HIGH"),
    "hs_ticket_category": ("PRODUCT_ISSUE", "BILLING_ISSUE"),
    "hs_status": ("DRAFT", "APPROVED"),
}
FIELD_TYPES = {
    "string": "text",
    "phone_number": "phonenumber",
    "number": "number",
    "bool": "booleancheckbox",
    "enumeration": "select",
    "date": "date",
    "datetime": "date",
}


def stage_property(what: str, stage: str) -> str:
    """The property with the time at which an object `entered` or `exited` a stage. HubSpot escapes the stage's id."""
    name = re.sub(r"\W", "_", stage)
    return f"hs_v2_date_{what}_{name}" + ("" if name == stage else "_1178562532")


def definitions(kind: str, now: str) -> dict[str, dict[str, Any]]:
    """The properties of a type by name, as `/crm/v3/properties` returns them."""
    names = dict.fromkeys(HUBSPOT_DEFINED[kind].split(), True)
    names |= dict.fromkeys(CUSTOM[kind].split(), False)
    for stages in PIPELINES.get(kind, {}).values():
        for stage in stages:
            names |= {f"{stage_property(what, stage)}:datetime": True for what in ("entered", "exited")}
    if kind in PIPELINES:
        names["hs_v2_date_entered_current_stage:datetime"] = True
    found = {}
    for entry, own in names.items():
        name, _, kind_of_value = entry.partition(":")
        found[name] = definition(kind, name, kind_of_value or "string", now, hubspot_defined=own)
    return found


def definition(kind: str, name: str, value_type: str, now: str, *, hubspot_defined: bool = False) -> dict[str, Any]:
    """A property as `/crm/v3/properties` returns it."""
    options = [
        {"label": value.capitalize(), "value": value, "displayOrder": place, "hidden": False}
        for place, value in enumerate(OPTIONS.get(name, ()))
    ]
    label = name.removeprefix("hs_").replace("_", " ").capitalize()
    read_only = (hubspot_defined and name.startswith("hs_v2_")) or name in ("hs_object_id", MODIFIED[kind])
    return {
        "name": name,
        "label": label,
        "type": value_type,
        "fieldType": FIELD_TYPES[value_type],
        "description": f"{label} of a {SINGULAR[kind]}",
        "groupName": f"{SINGULAR[kind]}information",
        "options": options,
        "displayOrder": -1,
        "calculated": False,
        "externalOptions": name == "hubspot_owner_id",
        "hasUniqueValue": False,
        "hidden": False,
        "hubspotDefined": hubspot_defined,
        "archived": False,
        "formField": not read_only,
        "createdAt": now,
        "updatedAt": now,
        "dataSensitivity": "non_sensitive",
        "modificationMetadata": {
            "archivable": not hubspot_defined,
            "readOnlyDefinition": hubspot_defined,
            "readOnlyValue": read_only,
        },
    }


def pipelines(kind: str, now: str) -> list[dict[str, Any]]:
    """The pipelines of a type as `/crm/v3/pipelines` returns them."""
    times = {"createdAt": now, "updatedAt": now, "archived": False}

    def metadata(state: str) -> dict[str, str]:
        if kind == "tickets":
            return {"ticketState": state, "isClosed": str(state == "CLOSED").lower()}
        return {"isClosed": str(state in ("1.0", "0.0")).lower(), "probability": state}

    return [
        {"id": id_, "label": label, "displayOrder": place}
        | {
            "stages": [
                {"id": stage, "label": title, "displayOrder": order, "metadata": metadata(state)}
                | {"writePermissions": "CRM_PERMISSIONS_ENFORCEMENT"}
                | times
                for order, (stage, (title, state)) in enumerate(stages.items())
            ]
        }
        | times
        for place, ((id_, label), stages) in enumerate(PIPELINES[kind].items())
    ]
