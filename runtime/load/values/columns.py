"""Columns whose type changes at the source: widened where nothing is lost, otherwise the load fails before it begins.

Rows that come as Arrow tables bring types of their own. dlt takes them over into its schema, leaves the column in the
warehouse as it is, and the warehouse rounds or cuts: 1.5 becomes 2 in a column of whole numbers.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dlt
from dlt.common import json
from dlt.common.arithmetics import DEFAULT_NUMERIC_PRECISION, DEFAULT_NUMERIC_SCALE
from dlt.common.configuration.container import Container
from dlt.common.destination import DestinationCapabilitiesContext
from dlt.common.exceptions import TerminalValueError
from dlt.common.normalizers.utils import generate_dlt_ids
from dlt.common.schema import Schema
from dlt.common.schema.typing import C_DLT_ID, C_DLT_LOAD_ID, TSchemaTables
from dlt.common.schema.utils import is_complete_column, is_nullable_column
from dlt.common.storages.load_package import LoadPackageStateInjectableContext
from dlt.destinations.exceptions import DatabaseTerminalException
from dlt.destinations.job_client_impl import SqlJobClientBase

MICROSECONDS = 6
DESTINATIONS = ("duckdb", "postgres")  # whose columns we can look up and widen
BITS = {"tinyint": 8, "smallint": 16, "integer": 32, "bigint": 64, "hugeint": 128}
TEXTS = ("text", "json", "binary")
KINDS = {
    "double": "double",
    "double precision": "double",
    "boolean": "bool",
    "date": "date",
    "blob": "binary",
    "bytea": "binary",
    "json": "json",
    "jsonb": "json",
}
# Types of columns, and those of values that may become them if Arrow's safe cast changes nothing.
CASTS = {
    ("number", "number"),
    ("timestamp", "timestamp"),
    ("timestamp", "date"),
    ("date", "timestamp"),
    ("time", "time"),
}
MOMENTS = {"timestamp_s": 0, "timestamp_ms": 3, "timestamp_ns": 9}


class ValueRefused(TerminalValueError):
    """A value that the warehouse cannot hold as it is. The message names the table and the column, and what to do."""


@dataclass(frozen=True)
class ColumnType:
    """What a column can hold.

    `limit` is for numbers: their magnitude is less. `scale` is how many decimal places numbers have, or the seconds of
    a time.
    """

    kind: str
    limit: int = 0
    scale: int = 0

    def holds(self, other: "ColumnType") -> bool:
        """Whether every value of the other type stays as it is in a column of this one."""
        if self.kind in ("text", "json"):  # where the warehouse itself refuses what does not fit
            return True
        if self.kind == "double" and other.kind == "number":
            return other.scale == 0 and other.limit <= 2**53
        if self.kind == "timestamp" and other.kind == "date":
            return True
        return self.kind == other.kind and self.limit >= other.limit and self.scale >= other.scale

    def widened(self, other: "ColumnType") -> "ColumnType | None":
        """The type that a column of this one can be changed to for values of the other; None if there is none."""
        if (self.kind, other.kind) == ("date", "timestamp"):
            return other
        if self.kind == other.kind and self.kind in ("number", "timestamp", "time"):
            return ColumnType(self.kind, max(self.limit, other.limit), max(self.scale, other.scale))
        return None


def type_of(column: Mapping[str, Any]) -> ColumnType:
    """The type of a column in dlt's schema."""
    kind, precision, scale = column["data_type"], column.get("precision"), column.get("scale")
    match kind:
        case "bigint":
            return ColumnType("number", 2 ** ((precision or 64) - 1))
        case "wei":
            return ColumnType("number", 10**38)
        case "decimal":
            if precision is None:
                precision, scale = DEFAULT_NUMERIC_PRECISION, DEFAULT_NUMERIC_SCALE
            return ColumnType("number", 10 ** (precision - (scale or 0)), scale or 0)
        case "timestamp" | "time":
            return ColumnType(kind, scale=MICROSECONDS if precision is None else precision)
    return ColumnType(kind)


def as_column(kind: ColumnType) -> dict[str, Any]:
    """The hints of a column of this type."""
    if kind.kind != "number":
        return {"data_type": kind.kind, "precision": kind.scale}
    if kind.scale == 0 and kind.limit <= 2**63:
        return {"data_type": "bigint", "precision": kind.limit.bit_length()}
    digits = max(1, len(str(kind.limit - 1)) + kind.scale)
    return {"data_type": "decimal", "precision": min(digits, DEFAULT_NUMERIC_PRECISION), "scale": kind.scale}


def type_in_file(arrow_type: Any) -> ColumnType:
    """The type of a column in a Parquet file."""
    import pyarrow as pa
    from dlt.common.libs.pyarrow import get_column_type_from_py_arrow

    if pa.types.is_unsigned_integer(arrow_type):
        return ColumnType("number", 2**arrow_type.bit_width)
    column: Mapping[str, Any] = get_column_type_from_py_arrow(arrow_type)
    return type_of(column) if column else ColumnType("null")


def fit(item: Any, table: str, schema: Schema, declared: Mapping[str, Any]) -> Any:
    """An Arrow table or batch in which columns have the types of the table's columns, where that changes no value.

    Otherwise the schema's column gets a type for both, where there is one. dlt would take over the type that comes
    last, and of a type that is its default nothing. A column that is new becomes signed, because no warehouse has
    unsigned numbers, and has microseconds, if its values allow that.
    """
    import pyarrow as pa

    arrays, fields = list(item.columns), list(item.schema)
    known: Mapping[str, Any] = schema.tables.get(table, {}).get("columns", {})
    for number, field in enumerate(fields):
        name = schema.naming.normalize_identifier(field.name)
        for kind, column in _preferred_types(field.type, {**known.get(name, {}), **declared.get(name, {})}):
            try:
                made = arrays[number].cast(kind)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # a value would be changed
                continue
            if pa.types.is_date(kind) and made.cast(field.type) != arrays[number]:  # Arrow drops times of day
                continue
            arrays[number], fields[number] = made, field.with_type(kind)
            if column and name in known:
                partial: Any = {"name": table, "columns": {name: {"name": name, **column}}}
                schema.update_table(partial)
            break
        said, found = declared.get(name, {}), type_in_file(fields[number].type)
        if said.get("data_type") and (type_of(said).kind, found.kind) in CASTS and not type_of(said).holds(found):
            raise _refusal(table, name, str(field.type), str(said["data_type"]))
        if getattr(fields[number].type, "unit", "") == "ns":  # dlt's files have microseconds
            raise _refusal(table, name, str(field.type), "microseconds")
    for name, values in _columns_of_dlt(item, known, schema):
        arrays.append(pa.array(values, pa.string()))
        fields.append(pa.field(name, pa.string(), nullable=False))
    return type(item).from_arrays(arrays, schema=pa.schema(fields, metadata=item.schema.metadata))


def _columns_of_dlt(item: Any, known: Mapping[str, Any], schema: Schema) -> Iterator[tuple[str, list[str]]]:
    """What dlt adds to dictionaries, if the table has rows of such: without it, they could not be loaded or merged."""
    made = {C_DLT_ID: generate_dlt_ids, C_DLT_LOAD_ID: _load_ids}
    names = {schema.naming.normalize_identifier(name) for name in item.schema.names}
    for column, make in made.items():
        name = schema.naming.normalize_identifier(column)
        if name not in names and known.get(name, {}).get("nullable") is False:
            yield name, make(item.num_rows)


def _load_ids(number: int) -> list[str]:
    return [Container()[LoadPackageStateInjectableContext].load_id] * number


def _preferred_types(arrow_type: Any, column: Any) -> Iterator[tuple[Any, Any]]:
    """Arrow types to try, each with what is new about the column."""
    import pyarrow as pa

    if column.get("data_type"):
        known, found = type_of(column), type_in_file(arrow_type)
        is_whole = column["data_type"] == "bigint" or pa.types.is_integer(arrow_type)
        if (known.kind, found.kind) in CASTS or ({known.kind, found.kind} == {"number", "double"} and is_whole):
            yield _arrow_type(column, arrow_type), None
        if not known.holds(found) and (wide := known.widened(found)):
            wide_column = {**column, **as_column(wide)}
            yield _arrow_type(wide_column, arrow_type), as_column(wide)
    if pa.types.is_unsigned_integer(arrow_type):
        yield getattr(pa, f"int{min(64, 2 * arrow_type.bit_width)}")(), None
        yield pa.decimal128(20, 0), None
    if pa.types.is_timestamp(arrow_type) and arrow_type.unit == "ns":
        yield pa.timestamp("us", arrow_type.tz), None
    if pa.types.is_time(arrow_type) and arrow_type.unit == "ns":
        yield pa.time64("us"), None


def _arrow_type(column: Any, arrow_type: Any) -> Any:
    """The Arrow type of a column, for values of a type. Those keep their time zone: dlt converts it."""
    import pyarrow as pa
    from dlt.common.libs.pyarrow import get_py_arrow_datatype

    kind = get_py_arrow_datatype(column, DestinationCapabilitiesContext.generic_capabilities(), "UTC")
    is_moment = pa.types.is_timestamp(kind) and pa.types.is_timestamp(arrow_type)
    return pa.timestamp(kind.unit, arrow_type.tz) if is_moment else kind


def check_columns(pipeline: dlt.Pipeline) -> None:
    """Widens columns of the warehouse for the values that are about to be loaded. Called before the load.

    Raises:
        ValueRefused: a column would change values and cannot be widened. Nothing has been changed then.
    """
    for load_id in pipeline.list_normalized_load_packages():
        package = pipeline.get_load_package_info(load_id)
        schema, client = package.schema, pipeline.destination_client(package.schema.name)
        is_postgres = pipeline.destination.destination_type.endswith("postgres")
        as_bits = set[str]()  # tables of which Postgres takes a file's values as they are, and would make 5e-324 of 1
        for job in package.jobs["new_jobs"]:
            if job.job_file_info.file_format == "parquet":
                _check_file(job.file_path, job.job_file_info.table_name, schema.tables, is_postgres)
                as_bits |= {job.job_file_info.table_name} if is_postgres else set()
        if not isinstance(client, SqlJobClientBase):
            continue
        tables = sorted(
            {job.job_file_info.table_name for job in package.jobs["new_jobs"]} & {*schema.data_table_names()}
        )
        emptied = {*(package.dropped_tables or ()), *(package.truncated_tables or ())}
        with client:
            if pipeline.destination.destination_type.endswith("sqlalchemy"):
                from runtime.load.values.mysql import check_server

                check_server(client, schema, tables)
            if client.get_stored_schema_by_hash(schema.version_hash):
                continue
            if pipeline.destination.destination_type.endswith(DESTINATIONS):
                _widen(client, schema, tables, as_bits, emptied)
            elif stored := client.get_stored_schema(schema.name):
                known = Schema.from_stored_schema(json.loads(stored.schema))
                _check_stored(known, schema, [table for table in tables if table not in emptied])


def _check_file(path: str, table: str, tables: TSchemaTables, as_bits: bool) -> None:
    """The columns of the schema have the types that came last; a file may have others."""
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(path)
    columns = tables[table]["columns"] if metadata.num_rows else {}
    for field in metadata.schema.to_arrow_schema():
        if not is_complete_column(column := columns.get(field.name, {})):
            continue
        found, target = type_in_file(field.type), type_of(column)
        if found.kind in ("timestamp", "time") and found.scale == 3 and target.scale == 0:  # Parquet has no seconds
            found = replace(found, scale=0)
        if found.kind == "number" and not target.holds(found):
            found = replace(found, limit=_limit(metadata, field.name, found.limit))
        is_other = as_bits and (_is_other(found, target) or str(field.type) in ("float", "halffloat"))
        if found.kind != "null" and (is_other or not target.holds(found)):
            raise _refusal(table, field.name, str(field.type), str(column["data_type"]))


def _limit(metadata: Any, name: str, otherwise: int) -> int:
    """More than the magnitude of a file's whole numbers, according to its statistics."""
    at = metadata.schema.to_arrow_schema().get_field_index(name)
    limit = 0
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(at).statistics
        if statistics is None or not statistics.has_min_max or not isinstance(statistics.max, int):
            return otherwise
        limit = max(limit, abs(statistics.min) + 1, abs(statistics.max) + 1)
    return limit


def _is_other(found: ColumnType, target: ColumnType) -> bool:
    """Whether the bits of one type are not those of the other."""
    return found.kind not in (target.kind, *TEXTS)


def _widen(
    client: SqlJobClientBase, schema: Schema, tables: Sequence[str], as_bits: Collection[str], emptied: Collection[str]
) -> None:
    """Changes the types of the warehouse's columns where they do not hold what those of the schema do."""
    stored, statements = _stored_types(client, tables), []
    for table in tables:
        for name, column in schema.tables[table]["columns"].items():
            if not is_complete_column(column):
                continue
            new, db_type = type_of(column), stored.get((table, name)) or _made_type(client, table, column)
            is_new = (table, name) not in stored and any(known == table for known, _ in stored)
            if is_new and table not in emptied:
                _check_new_column(client, table, column)
            old = parsed(db_type)
            if not old.holds(new):
                wide = old.widened(new)
                wide_type = wide and _made_type(client, table, {**column, **as_column(wide)})
                if not wide_type or not parsed(wide_type).holds(new):
                    raise _refusal(table, name, str(column["data_type"]), db_type)
                statements.append((_alter(client, table, name, wide_type), table, name, wide_type, db_type))
                old = parsed(wide_type)
            if table in as_bits and (_is_other(new, old) or (old.kind == "json" != new.kind)):
                raise _refusal(table, name, str(column["data_type"]), db_type)
    with client.maybe_ddl_transaction():
        for statement, table, name, wide_type, db_type in statements:
            try:
                client.sql_client.execute_sql(statement)
            except DatabaseTerminalException as error:  # a value does not fit, or a view depends on the column
                raise _refusal(table, name, wide_type, db_type) from error


def _check_stored(known: Schema, schema: Schema, tables: Sequence[str]) -> None:
    """For warehouses whose columns are not looked up: they have the types with which dlt has made them."""
    for table in tables:
        old: Mapping[str, Any] = known.tables.get(table, {}).get("columns", {})
        for name, column in schema.tables[table]["columns"].items():
            made = old.get(name, {})
            if is_complete_column(column) and is_complete_column(made) and not type_of(made).holds(type_of(column)):
                raise _refusal(table, name, _readable(column), _readable(made))


def _readable(column: Mapping[str, Any]) -> str:
    """The type of a column in dlt's schema, such as `decimal(38, 9)`."""
    hints = as_column(type_of(column))
    sizes = [str(hints[size]) for size in ("precision", "scale") if hints.get(size)]
    return f"{hints['data_type']}({', '.join(sizes)})" if sizes else str(hints["data_type"])


def _check_new_column(client: SqlJobClientBase, table: str, column: Any) -> None:
    """Postgres adds no mandatory column to a table with rows. Those of Arrow tables have no `_dlt_id`."""
    if is_nullable_column(column) or client.capabilities.sqlglot_dialect != "postgres":
        return
    if client.sql_client.execute_sql(f"SELECT 1 FROM {client.sql_client.make_qualified_table_name(table)} LIMIT 1"):
        raise ValueRefused(
            f"{table}, column {column['name']}: the table's rows do not have it, for example because they came as "
            "Arrow tables, and the new rows must. Yield Arrow tables again, or drop the table and load all rows anew. "
            "Nothing was loaded."
        )


def _made_type(client: SqlJobClientBase, table: str, column: Any) -> str:
    """The type with which dlt makes a column."""
    try:
        return client.type_mapper.to_destination_type(column, client.prepare_load_table(table))
    except TerminalValueError as error:  # nanoseconds in Postgres
        raise ValueRefused(f"{table}, column {column['name']}: {error}. Cast it in the source.") from error


def _alter(client: SqlJobClientBase, table: str, column: str, db_type: str) -> str:
    name = client.sql_client.escape_column_name(column)
    using = f" USING {name}::timestamp AT TIME ZONE 'UTC'" if "with time zone" in db_type.lower() else ""
    qualified = client.sql_client.make_qualified_table_name(table)
    return f"ALTER TABLE {qualified} ALTER COLUMN {name} TYPE {db_type}{using}"


def _stored_types(client: SqlJobClientBase, tables: Sequence[str]) -> Mapping[tuple[str, str], str]:
    """The types of the columns that the warehouse has, by table and column."""
    query = (
        "SELECT table_name, column_name, data_type, numeric_precision, numeric_scale, datetime_precision "
        "FROM information_schema.columns WHERE table_schema = %s "
        f"AND table_name IN ({', '.join(['%s'] * len(tables))})"
    )
    rows = client.sql_client.execute_sql(query, client.sql_client.dataset_name, *tables) if tables else None
    types = {}
    for table, column, db_type, precision, scale, places in rows or ():
        if db_type == "numeric" and precision is not None:  # Postgres gives these apart
            db_type = f"numeric({precision},{scale})"
        elif places is not None and db_type != "date":
            db_type = db_type.replace(" ", f"({places}) ", 1)
        types[table, column] = str(db_type)
    return types


def parsed(db_type: str) -> ColumnType:
    """The type of a column in DuckDB or Postgres, such as `numeric(10,2)`. What is not known here counts as text."""
    name, sizes = db_type.lower(), [int(size) for size in re.findall(r"(?<=[(,])\d+", db_type.replace(" ", ""))]
    if bits := BITS.get(name):
        return ColumnType("number", 2 ** (bits - 1))
    if name.startswith(("decimal", "numeric")):
        precision, scale = sizes or (1000, 500)  # without sizes, Postgres has no limit
        return ColumnType("number", 10 ** (precision - scale), scale)
    if name.startswith("time"):
        kind = "timestamp" if name.startswith("timestamp") else "time"
        return ColumnType(kind, scale=sizes[0] if sizes else MOMENTS.get(name, MICROSECONDS))
    return ColumnType(KINDS.get(name, "text"))


def _refusal(table: str, column: str, new: str, old: str) -> ValueRefused:
    return ValueRefused(
        f"{table}, column {column}: the source sends {new}, which the column's type {old} would change. Cast it in the "
        "source, rename it there, or change the column in the warehouse. Nothing was loaded."
    )
