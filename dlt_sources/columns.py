"""Column hints: the type, so that a column exists even while all its values are null, and a text for the catalogue."""

from dlt.common.data_types import TDataType
from dlt.common.schema.typing import TTableSchemaColumns


def columns(**described: tuple[TDataType, str]) -> TTableSchemaColumns:
    """Hints in order, from `name=(type, description)`. dlt passes the description on to the catalogue and, where the
    warehouse has comments on columns, to the table. Times are UTC."""
    return {
        name: {"name": name, "data_type": data_type, "description": description}
        for name, (data_type, description) in described.items()
    }
