"""The account: generated objects with their history and associations, and changes to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from sandbox.arguments import check_known
from sandbox.hubspot.properties import (
    ASSOCIATED,
    CREATED,
    INDUSTRIES,
    KINDS,
    MODIFIED,
    OPTIONS,
    PIPELINES,
    STAGE,
    definition,
    definitions,
    pipelines,
    stage_property,
)

Properties = dict[str, str]
FIRST_IDS = dict(zip(KINDS, range(1_000_000, 7_000_000, 1_000_000), strict=True))
SIZES = {"companies": 60, "contacts": 320, "deals": 240, "tickets": 130, "products": 25, "quotes": 70}
CURRENT = "hs_v2_date_entered_current_stage"
ARCHIVED = 3  # of each type
OWNERS, FORMER_OWNERS = 9, 3
BEGIN = datetime(2025, 1, 6, 8, tzinfo=UTC)
NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)
NAMES = ("Åsa", "Ben", "Chloé", "Dmitri", "Émilie", "Fatima", "Grace", "Hiroshi", "Ines", "Jürgen")
MARKETS = (("Berlin", "Germany"), ("Łódź", "Poland"), ("São Paulo", "Brazil"), ("東京", "Japan"))


def text(moment: datetime) -> str:
    """A time in HubSpot's format."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass
class Record:
    """An object. `properties` is replaced, never modified in place; `indexed` is the version that the search knows."""

    kind: str
    id: str
    properties: Properties
    history: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    links: dict[str, dict[str, None]] = field(default_factory=dict)
    archived_at: str | None = None
    indexed: Properties | None = None

    @property
    def created_at(self) -> str:
        return self.properties[CREATED[self.kind]]

    @property
    def updated_at(self) -> str:
        return self.properties[MODIFIED[self.kind]]

    def set(self, values: Properties, moment: str) -> None:
        """Set values, add them to the history, and set the time of the change."""
        values = values | {MODIFIED[self.kind]: moment}
        for name, value in values.items():
            if self.properties.get(name) != value:
                entry = {"value": value, "timestamp": moment, "sourceType": "CRM_UI", "sourceId": "userId:501"}
                self.history.setdefault(name, []).insert(0, entry | {"updatedByUserId": 501})
        self.properties = self.properties | values


class Store:
    """The account's data. The same seed and sizes give the same data."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.reset()

    def reset(self) -> None:
        self.fill(SIZES, ARCHIVED)

    def fill(self, sizes: dict[str, int], archived: int = 0) -> None:
        """Replace all objects by so many of each type (default 0), plus `archived` ones of each type that has any."""
        self.moment = NOW
        self.definitions = {kind: definitions(kind, text(BEGIN)) for kind in KINDS}
        self.pipelines = {kind: pipelines(kind, text(BEGIN)) for kind in PIPELINES}
        self.owners = [_owner(number) for number in range(OWNERS + FORMER_OWNERS)]
        self.records: dict[str, dict[str, Record]] = {kind: {} for kind in KINDS}
        for kind in KINDS:
            rng = Random(f"{self.seed}:{kind}")  # noqa: S311 - has to be repeatable
            kept = sizes.get(kind, 0)
            for number in range(kept + (archived if kept else 0)):
                record = self._make(kind, number, rng)
                if number >= kept:
                    record.archived_at = text(NOW - timedelta(days=number - kept + 1))
                else:
                    self._associate(record, number)

    def _make(self, kind: str, number: int, rng: Random) -> Record:
        created = BEGIN + timedelta(minutes=number * 41 % 500_000, milliseconds=rng.randrange(1000))
        path = _stages(kind, rng)
        first = {STAGE[kind][1]: path[0]} if path else {}
        record = self._create(kind, _values(kind, number, rng) | first, created)
        moment = created
        for stage in path[1:]:
            moment += timedelta(days=rng.randrange(1, 9), seconds=rng.randrange(86_400))
            self._move(record, stage, text(moment))
        if rng.random() < 0.3:
            moment += timedelta(days=rng.randrange(1, 9))
            custom = {"companies": "internal_note", "contacts": "nickname"}.get(kind)
            record.set({custom or MODIFIED[kind]: text(moment)}, text(moment))
        record.indexed = record.properties
        return record

    def _create(self, kind: str, values: Properties, moment: datetime) -> Record:
        id_ = str(FIRST_IDS[kind] + len(self.records[kind]) + 1)
        record = Record(kind, id_, {})
        if kind in STAGE:
            stages = STAGE[kind]
            first = values.get(stages[1]) or next(iter(next(iter(PIPELINES[kind].values()))))
            values = values | {stages[0]: _pipeline_of(kind, first), stages[1]: first}
            values |= {stage_property("entered", first): text(moment), CURRENT: text(moment)}
        record.set({"hs_object_id": id_, CREATED[kind]: text(moment)} | values, text(moment))
        self.records[kind][id_] = record
        return record

    def _move(self, record: Record, stage: str, moment: str) -> None:
        _, name = STAGE[record.kind]
        old = record.properties[name]
        values = {name: stage, CURRENT: moment}
        values |= {stage_property("exited", old): moment, stage_property("entered", stage): moment}
        if record.kind == "deals":
            values["hs_is_closed"] = str(_is_closed(stage)).lower()
        record.set(values, moment)

    def _associate(self, record: Record, number: int) -> None:
        """Associate a new object with existing ones. The first company is large: it has half of all contacts."""
        for kind in ASSOCIATED[record.kind]:
            others = [id_ for id_, other in self.records[kind].items() if not other.archived_at]
            if kind not in KINDS[: KINDS.index(record.kind)] or not others or number % 7 == 6:
                continue
            large = kind == "companies" and number % 2 == 0
            self.link(record, self.records[kind][others[0 if large else number * 5 % len(others)]])
            if kind == "contacts" and number % 2:
                self.link(record, self.records[kind][others[number * 11 % len(others)]])

    @staticmethod
    def link(one: Record, other: Record) -> None:
        """Associate two objects with each other."""
        one.links.setdefault(other.kind, {})[other.id] = None
        other.links.setdefault(one.kind, {})[one.id] = None

    def linked(self, record: Record, kind: str) -> list[str]:
        """The ids of the objects of a type that an object is associated with, without archived ones."""
        others = self.records[kind]
        return [id_ for id_ in record.links.get(kind, ()) if not others[id_].archived_at]

    def change(self, kind: str, arguments: dict[str, Any]) -> Any:
        """Make one change, a minute after the last one. Raises ValueError, or TypeError for an unknown argument."""
        changes: dict[str, Callable[..., Any]] = {
            "new_object": self.new_object,
            "edit": self.edit,
            "move": self.move,
            "archive": self.archive,
            "restore": self.restore,
            "associate": self.associate,
            "new_property": self.new_property,
            "rename_owner": self.rename_owner,
            "rename_pipeline": self.rename_pipeline,
            "index": self.index,
        }
        check_known("change", kind, changes)
        self.moment += timedelta(minutes=1)
        return changes[kind](**arguments)

    def new_object(
        self, type: str, properties: Properties | None = None, count: int = 1, indexed: bool = True
    ) -> dict[str, Any]:
        """Create objects, all at the same time. The search finds them at once if `indexed`, otherwise after `index`."""
        made = [self._create(self._known(type), properties or {}, self.moment) for _ in range(count)]
        return self._done(made, indexed)

    def edit(
        self,
        type: str,
        id: str | None = None,
        properties: Properties | None = None,
        count: int = 1,
        indexed: bool = True,
    ) -> dict[str, Any]:
        """Change the object `id`, or the first `count` objects, all at the same time."""
        edited = [self._record(type, id)] if id else self.active(self._known(type))[:count]
        for record in edited:
            record.set(properties or {}, text(self.moment))
        return self._done(edited, indexed)

    def move(self, type: str, id: str, stage: str) -> dict[str, Any]:
        """Move a deal or a ticket to another stage."""
        record = self._record(type, id)
        self._move(record, stage, text(self.moment))
        return self._done([record], indexed=True)

    def archive(self, type: str, id: str) -> dict[str, Any]:
        """Delete an object. As in HubSpot, requests for archived objects still return it."""
        record = self._record(type, id)
        record.archived_at = text(self.moment)
        return {"id": id, "archivedAt": record.archived_at}

    def restore(self, type: str, id: str) -> dict[str, Any]:
        """Restore an archived object. This does not change its time of modification."""
        self._record(type, id).archived_at = None
        return {"id": id}

    def associate(self, type: str, id: str, to: str, to_id: str) -> dict[str, Any]:
        """Associate two objects. This does not change their times of modification."""
        self.link(self._record(type, id), self._record(to, to_id))
        return {"id": id, "to_id": to_id}

    def new_property(self, type: str, name: str, value_type: str = "string") -> dict[str, Any]:
        """Add a custom property."""
        made = definition(self._known(type), name, value_type, text(self.moment))
        self.definitions[type][name] = made
        return made

    def rename_owner(self, id: str, last_name: str) -> dict[str, Any]:
        owner = next(owner for owner in self.owners if owner["id"] == id)
        owner |= {"lastName": last_name, "updatedAt": text(self.moment)}
        return owner

    def rename_pipeline(self, type: str, id: str, label: str) -> dict[str, Any]:
        pipeline = next(pipeline for pipeline in self.pipelines[type] if pipeline["id"] == id)
        pipeline |= {"label": label, "updatedAt": text(self.moment)}
        return pipeline

    def index(self) -> dict[str, Any]:
        """Update the search index."""
        for records in self.records.values():
            for record in records.values():
                record.indexed = record.properties
        return {"indexed": True}

    def active(self, kind: str) -> list[Record]:
        """The objects that are not archived, by id."""
        return [record for record in self.records[kind].values() if not record.archived_at]

    def _done(self, changed: list[Record], indexed: bool) -> dict[str, Any]:
        for record in changed if indexed else ():
            record.indexed = record.properties
        ids = [record.id for record in changed]
        return {"ids": ids, "updatedAt": text(self.moment)}

    def _known(self, kind: str) -> str:
        check_known("type", kind, KINDS)
        return kind

    def _record(self, kind: str, id_: str) -> Record:
        records = self.records[self._known(kind)]
        if id_ not in records:
            first, last = FIRST_IDS[kind] + 1, FIRST_IDS[kind] + len(records)
            raise ValueError(f"{kind} has no {id_}; ids: {first} to {last}")
        return records[id_]


def _owner(number: int) -> dict[str, Any]:
    name = NAMES[number % len(NAMES)]
    return {
        "id": str(401 + number),
        "email": f"owner{number}@example.com",
        "type": "PERSON",
        "firstName": name,
        "lastName": f"Owner {number}",
        "userId": 501 + number,
        "userIdIncludingInactive": 501 + number,
        "createdAt": text(BEGIN),
        "updatedAt": text(BEGIN + timedelta(days=number)),
        "archived": number >= OWNERS,
        "teams": [{"id": "31", "name": "Sales", "primary": True}] if number % 2 else [],
    }


def _pipeline_of(kind: str, stage: str) -> str:
    return next(id_ for (id_, _), stages in PIPELINES[kind].items() if stage in stages)


def _is_closed(stage: str) -> bool:
    return any(stages.get(stage, ("", ""))[1] in ("1.0", "0.0") for stages in PIPELINES["deals"].values())


def _stages(kind: str, rng: Random) -> list[str]:
    """The stages of a pipeline that an object passes through."""
    if kind not in PIPELINES:
        return []
    stages = list(rng.choice(list(PIPELINES[kind].values())))
    if kind == "tickets":
        return stages[: rng.randrange(1, len(stages) + 1)]
    open_ones, closed = stages[:-2], stages[-2:]
    path = open_ones[: rng.randrange(1, len(open_ones) + 1)]
    return [*path, rng.choice(closed)] if len(path) == len(open_ones) and rng.random() < 0.8 else path


def _values(kind: str, number: int, rng: Random) -> Properties:
    """An object's values. In some objects, values are missing or empty."""

    def option(name: str) -> str:
        return OPTIONS[name][number % len(OPTIONS[name])]

    def moment() -> datetime:
        return BEGIN + timedelta(minutes=rng.randrange(500_000), milliseconds=rng.randrange(1000))

    def flag() -> str:
        return rng.choice(("true", "false", ""))

    city, country = MARKETS[number % len(MARKETS)]
    owner = {"hubspot_owner_id": str(401 + number % (OWNERS + FORMER_OWNERS))}
    day, at = moment().date().isoformat(), text(moment())
    match kind:
        case "companies":
            values = {"name": f"Company {number:04} GmbH", "domain": f"company{number:04}.example.com", "city": city}
            values |= {"country": country, "industry": INDUSTRIES[number % 4], "phone": f"+49 30 {number:06}"}
            values |= {"numberofemployees": str(rng.randrange(1, 9000)), "annualrevenue": f"{number * 12345.67:.2f}"}
            values |= {"customer_tier": option("customer_tier"), "is_partner": flag(), "contract_start": day}
            values |= {"last_audit_at": at, "credit_score": rng.choice(("", "0", "-1.5", "812.25"))} | owner
        case "contacts":
            values = {"firstname": NAMES[number % len(NAMES)], "lastname": f"Contact {number:05}"}
            values |= {"email": f"customer{number}@example.com", "lifecyclestage": option("lifecyclestage")}
            values |= {"newsletter": flag(), "birthday": f"19{60 + number % 40}-02-0{1 + number % 9}"}
            values |= {
                "last_training_at": at,
                "satisfaction": f"{rng.random() * 10:.2f}",
                "interests": "pricing;roadmap",
            }
            values |= {"survey_answer_001": 'Says "hello"; 你好 🙂\nand more', "survey_answer_130": "last"} | owner
        case "deals":
            values = {"dealname": f"Deal {number:05}", "amount": f"{rng.randrange(1, 10_000_000) / 100:.2f}"}
            values |= {"closedate": at, "dealtype": option("dealtype"), "hs_is_closed": "false"}
            values |= {"discount_percent": rng.choice(("", "0", "12.5")), "is_renewal": flag(), "go_live": day}
            values |= {"approved_at": at, "product_lines": "core;analytics", "competitor": ""} | owner
        case "tickets":
            values = {"subject": f"Ticket {number:05}", "content": "It does not work\nat all."}
            values |= {"hs_ticket_priority": option("hs_ticket_priority"), "root_cause": option("root_cause")}
            values |= {"hs_ticket_category": option("hs_ticket_category"), "escalated": flag(), "promised_on": day}
            values |= {"first_reply_at": at, "effort_hours": f"{rng.randrange(80) / 4}"} | owner
        case "products":
            values = {"name": f"Product {number:03}", "description": "", "price": f"{number * 9.99:.2f}"}
            values |= {"hs_sku": f"SKU-{number:03}", "is_bundle": flag(), "available_from": day, "price_checked_at": at}
            values |= {"weight_kg": f"{number / 8}", "family": option("family")}
        case _:
            values = {"hs_title": f"Quote {number:04}", "hs_status": option("hs_status"), "hs_expiration_date": day}
            values |= {"hs_public_url_key": f"{rng.getrandbits(64):016x}", "legal_review": flag(), "signed_on": day}
            values |= {"hs_quote_amount": f"{number * 100.5:.2f}", "sent_at": at, "template": option("template")}
    return {name: value for name, value in values.items() if number % 9 or name.startswith(("hs_", "deal", "name"))}
