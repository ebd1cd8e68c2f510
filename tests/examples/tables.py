"""Tables of a Postgres database, as `tables.yaml` lists them: one asset each, which fails and is scheduled alone.

Variables: SOURCES__SQL_DATABASE__CREDENTIALS; for hashed columns SOURCES__SQL_DATABASE__HASH_SALT.
"""

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, Literal, Self

import dagster as dg
import yaml
from dagster_dlt import DagsterDltResource, dlt_assets
from pydantic import BaseModel, Field, ValidationError, model_validator

from dlt_sources.sql_database import sql_tables
from runtime.load.settings import LoadOptions
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline


class Table(BaseModel, extra="forbid"):
    """An entry of the file. With a name alone, the table is read whole and merged on its primary key."""

    name: str = Field(pattern=r"^\w+$")
    key: list[str] = []  # where the table has no primary key, or another one is wanted
    cursor: str | None = None  # a timestamptz that moves with every change
    daily_since: date | None = None  # the first daily partition
    disposition: Literal["merge", "append", "replace"] = "merge"
    leave_out: list[str] = []
    hash: list[str] = []
    pool: str = "sql_database"
    schedule: str | None = None

    @model_validator(mode="after")
    def fits_together(self) -> Self:
        if self.daily_since and (self.disposition != "merge" or not self.cursor):
            raise ValueError("daily_since needs a cursor, and the disposition merge")
        if self.disposition != "merge" and bool(self.cursor) != (self.disposition == "append"):
            raise ValueError("append needs a cursor, and replace reads the whole table without one")
        return self


def table_definitions(table: Table) -> dg.Definitions:
    """The asset of a table, and its schedule."""
    name = f"sql_database_{table.name}"
    source = sql_tables(name, [table.name], table.cursor, key=table.key, left_out=table.leave_out, hashed=table.hash)
    if table.disposition != "merge":
        source.resources[table.name].apply_hints(write_disposition=table.disposition)
    days = dg.DailyPartitionsDefinition(str(table.daily_since), end_offset=1) if table.daily_since else None

    @dlt_assets(
        dlt_source=source,
        dlt_pipeline=warehouse_pipeline(name, "raw_sql_database"),
        name=name,
        dagster_dlt_translator=SourceTranslator(source="sql_database"),
        partitions_def=days,
        pool=table.pool,
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource, config: LoadOptions) -> Iterator[Any]:
        yield from dlt.run(context=context, **config.arguments)

    def request(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        recent = days.get_partition_keys(current_time=context.scheduled_execution_time)[-2:] if days else []
        ends = ("start", "end")  # yesterday and today in one run
        return dg.RunRequest(
            tags={f"dagster/asset_partition_range_{end}": day for end, day in zip(ends, recent, strict=False)}
        )

    if not table.schedule:
        return dg.Definitions(assets=[assets])
    schedule = dg.ScheduleDefinition(name, cron_schedule=table.schedule, target=[assets], execution_fn=request)
    return dg.Definitions(assets=[assets], schedules=[schedule])


def read_tables(file: Path) -> Iterator[dg.Definitions]:
    """The definitions of each table in the file. Raises ValueError with the line that is wrong."""
    line, lines, names = 1, dict[Any, int](), set[str]()
    try:
        document = yaml.compose(file.read_text(), yaml.SafeLoader)
        for entry in getattr(document, "value", None) or [document]:
            line = entry.start_mark.line + 1 if isinstance(entry, yaml.Node) else 1
            if not isinstance(entry, yaml.MappingNode):
                raise ValueError("a table is an entry with a name, such as `- name: orders`")
            lines = {key.value: key.start_mark.line + 1 for key, _ in entry.value}
            table = Table(**yaml.safe_load(yaml.serialize(entry)))
            if table.name in names or len(lines) < len(entry.value):
                raise ValueError(f"{table.name} or one of its options is listed twice")
            names.add(table.name)
            yield table_definitions(table)
    except ValidationError as error:
        wrong = error.errors(include_input=False)[0]
        option = next(iter(wrong["loc"]), "")
        problem = "there is no such option" if wrong["type"] == "extra_forbidden" else wrong["msg"]
        raise ValueError(f"{file.name}, line {lines.get(option, line)}: {option}: {problem}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"{file.name}, line {line}: {error.problem}") from None
    except (dg.DagsterInvalidDefinitionError, TypeError, ValueError) as error:
        raise ValueError(f"{file.name}, line {line}: {error}") from error


defs = dg.Definitions.merge(*read_tables(Path(__file__).with_name("tables.yaml")))
