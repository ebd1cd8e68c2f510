"""Personal data: columns that are hashed or left out before anything of a row is written.

A hash is HMAC-SHA-256 with a secret of the source, so that nobody without it can try values. Equal values of sources
with the same secret have equal hashes, and can be joined. With another secret, all rows must be loaded again.

Variable: SOURCES__<SOURCE>__HASH_SALT, any long random text.
"""

import hashlib
import hmac
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any

import dlt
from dlt.common import json
from dlt.common.libs.pyarrow import is_arrow_item
from dlt.extract import DltResource

from dlt_sources import settings
from dlt_sources.errors import PermanentSourceError


def protect(
    resource: DltResource, source: str, hashed: Collection[str] = (), left_out: Collection[str] = ()
) -> DltResource:
    """Hashes and removes columns of a resource's rows, in a step before all others. Returns the resource.

    The rows are dictionaries or Arrow tables and must have each of the columns, even if it is null: a name that is
    misspelled fails the load. Columns of child tables cannot be named; the column with the whole list can.
    """
    if hashed or left_out:
        resource.add_map(Protection(resource.name, source, hashed, left_out), insert_at=1)
    return resource


class Protection:
    """The step of one resource."""

    def __init__(self, resource: str, source: str, hashed: Collection[str], left_out: Collection[str]) -> None:
        self._resource, self._source, self._hashed, self._left_out = resource, source, hashed, left_out
        self._normalized: dict[str, str] = {}

    def __call__(self, item: Any) -> Any:
        if isinstance(item, Mapping):
            protected = self._protected(item.keys())
            return {
                name: self._hash(value) if name in protected else value
                for name, value in item.items()
                if protected.get(name, True)
            }
        if is_arrow_item(item):
            return self._arrow(item)
        raise PermanentSourceError(
            f"Columns of {self._resource} cannot be hashed or left out of rows of the type {type(item).__name__}: "
            "yield dictionaries or Arrow tables."
        )

    def _arrow(self, item: Any) -> Any:
        import pyarrow as pa

        protected = self._protected(item.schema.names)
        columns = {
            name: pa.array(map(self._hash, item[name].to_pylist()), pa.string()) if name in protected else item[name]
            for name in item.schema.names
            if protected.get(name, True)
        }
        return pa.table(columns)

    def _protected(self, names: Collection[str]) -> dict[str, bool]:
        """Of the columns as the rows spell them: whether each is hashed, or left out."""
        found = {name: self._actions[key] for name in names if (key := self._normalize(name)) in self._actions}
        if missing := self._actions.keys() - {self._normalize(name) for name in found}:
            raise PermanentSourceError(
                f"A row of {self._resource} has no {', '.join(sorted(missing))}, to be hashed or left out. Correct the "
                "name; nothing was loaded."
            )
        return found

    @cached_property
    def _actions(self) -> Mapping[str, bool]:
        """Normalized name → whether it is hashed."""
        return {self._normalize(name): name not in self._left_out for name in (*self._hashed, *self._left_out)}

    @cached_property
    def _salt(self) -> bytes:
        return settings.require(self._source, "hash_salt", "to hash personal data", secret=True).encode()

    def _hash(self, value: Any) -> str | None:
        if value is None:
            return None
        text = json.dumps(value) if isinstance(value, list | dict) else str(value)
        return hmac.new(self._salt, text.encode(), hashlib.sha256).hexdigest()

    def _normalize(self, name: str) -> str:
        """The column in the warehouse: `orderId` is `order_id`."""
        if name not in self._normalized:
            self._normalized[name] = dlt.current.source_schema().naming.normalize_identifier(name)
        return self._normalized[name]
