"""A component for `defs.yaml` whose loads are isolated. Imported only by the locations that use it."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import dagster as dg
import dlt
from dagster_dlt import DagsterDltTranslator, dlt_assets
from dagster_dlt.components.dlt_load_collection import component as stock
from dagster_dlt.components.dlt_load_collection.scaffolder import DltLoadCollectionScaffolder, DltScaffolderParams
from dagster_dlt.constants import META_KEY_TRANSLATOR
from dagster_dlt.dlt_event_iterator import DltEventIterator, DltEventType
from dlt.extract.source import DltSource
from pydantic import Field

from runtime.load import checks
from runtime.load.advice import missing_settings
from runtime.load.assets import dlt_objects, with_readable_metadata
from runtime.load.location import ERRORS, placeholder
from runtime.load.partitions import partition_label, time_window
from runtime.load.resource import Context, IsolatedDltResource
from runtime.load.retries import disable_run_retries
from runtime.load.settings import LoadOptions

OF_PARTITION = ("partition_key", "time_window")  # the parameters of a source function that a run fills in
SCAFFOLD = '''\
"""What `defs.yaml` loads."""

from collections.abc import Iterator
from typing import Any

import dlt

from runtime.load.warehouse import warehouse_pipeline


@dlt.source(name="{name}", section="{name}")
def my_load_source() -> Any:
    @dlt.resource(primary_key="id", write_disposition="merge")
    def greetings() -> Iterator[Any]:
        """Greetings, one row each."""
        yield {{"id": 1, "text": "hello, world!"}}

    return greetings


my_load_pipeline = warehouse_pipeline("{name}", "raw_{name}")
'''


@dataclass
class IsolatedLoad(stock.DltLoadSpecModel):
    """One load of a `defs.yaml`.

    `source` is a dlt source, or a function that returns one. The function is called without arguments to learn which
    tables there are, and again in each run. It gets the run's partition if it has a parameter `partition_key` (a str)
    or `time_window` (start and end, two datetimes).
    """

    pool: Annotated[str | None, dg.Resolver.default(description="Limits how many loads run at the same time.")] = None
    primary_key_checks: Annotated[
        bool, dg.Resolver.default(description="Whether each asset gets a check that its primary keys are unique.")
    ] = False

    def tables(self) -> DltSource:
        """A source that names the tables."""
        for parameter in self.partition_parameters.values():
            if parameter.default is parameter.empty:
                raise ValueError(
                    f"{self.source_name} needs a default for {parameter.name}, for example None: it is called without "
                    "a partition to learn which tables there are."
                )
        if self.partition_parameters and not self.partitions_def:
            raise ValueError(f"{self.source_name} takes {self.parameter_names}, so its load needs a partitions_def.")
        return self._called({})

    def source_of_run(self, context: dg.AssetExecutionContext) -> DltSource:
        """The source that a run reads."""
        op = context.op_execution_context
        key = context.partition_key if context.has_partition_key else None
        partition = {"partition_key": key, "time_window": time_window(op)}
        given = {name: partition[name] for name in self.partition_parameters}
        if None in given.values():  # without it, the function would read something else
            disable_run_retries(op)
            raise dg.Failure(
                f"{self.source_name} takes {self.parameter_names}, which a run of {partition_label(op)} does not have. "
                "For a range of partitions, take time_window, or set backfill_policy to {type: multi_run}. A "
                "time_window needs partitions by time.",
                allow_retries=False,
            )
        return self._called(given)

    @property
    def partition_parameters(self) -> Mapping[str, inspect.Parameter]:
        """Those of `OF_PARTITION` that the function takes."""
        if isinstance(self.source, DltSource) or not callable(self.source):
            return {}
        parameters = inspect.signature(self.source).parameters
        return {name: parameters[name] for name in OF_PARTITION if name in parameters}

    @property
    def parameter_names(self) -> str:
        return " and ".join(self.partition_parameters)

    @property
    def source_name(self) -> str:
        return str(getattr(self.source, "__name__", None) or getattr(self.source, "name", self.source))

    def _called(self, arguments: Mapping[str, Any]) -> DltSource:
        source: Any = self.source
        found = source(**arguments) if callable(source) and not isinstance(source, DltSource) else source
        if not isinstance(found, DltSource):
            raise TypeError(
                f"{self.source_name} is no source but a {type(found).__name__}. Name a dlt source or a function that "
                "returns one, for example with @dlt.source."
            )
        return found


class LoadTranslator(stock.DltComponentTranslator):
    """dagster-dlt's translator of a component, which also knows its load."""

    def __init__(self, component: "IsolatedDltLoadCollectionComponent", load: IsolatedLoad) -> None:
        super().__init__(component, load)
        self.load = load


class LoadResource(IsolatedDltResource):
    """What `execute` gets. It reads the source of the run's partition, with the options of the run."""

    options: dict[str, Any] = Field(default_factory=dict)

    def run(
        self,
        context: Context,
        dlt_source: DltSource | None = None,
        dlt_pipeline: dlt.Pipeline | None = None,
        dagster_dlt_translator: DagsterDltTranslator | None = None,
        **kwargs: Any,
    ) -> DltEventIterator[DltEventType]:
        assert isinstance(context, dg.AssetExecutionContext)
        load: IsolatedLoad = dlt_objects(context.assets_def)[META_KEY_TRANSLATOR].load
        source = dlt_source or load.source_of_run(context)
        return super().run(context, source, dlt_pipeline, dagster_dlt_translator, **self.options | kwargs)


class LoadScaffolder(DltLoadCollectionScaffolder):
    """`dg scaffold defs`: a load that runs as it stands, into the warehouse that `WAREHOUSE` selects."""

    def scaffold(self, request: dg.ScaffoldRequest[DltScaffolderParams]) -> None:
        super().scaffold(request)
        (request.target_path / "loads.py").write_text(SCAFFOLD.format(name=request.target_path.name))


@dg.scaffold_with(LoadScaffolder)
@dataclass
class IsolatedDltLoadCollectionComponent(stock.DltLoadCollectionComponent):
    """dlt loads as assets, safe when runs load at the same time: dagster-dlt's component, and more fields."""

    loads: Sequence[IsolatedLoad]

    @property
    def dlt_pipeline_resource(self) -> LoadResource:
        return LoadResource()

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        parts = [self._defs_of(load, context) for load in self.loads]
        return with_readable_metadata(dg.Definitions.merge(*parts))

    def _defs_of(self, load: IsolatedLoad, component: dg.ComponentLoadContext) -> dg.Definitions:
        try:
            source = load.tables()
        except ERRORS as error:
            if not (sentence := missing_settings(error)):
                raise
            folder = component.defs_relative_module_name(component.path)
            name, module = load.source_name, getattr(load.source, "__module__", folder)
            return placeholder(f"{folder}.{name}", sentence, f"from {module} import {name}; {name}()")

        @dlt_assets(
            dlt_source=source,
            dlt_pipeline=load.pipeline,
            name=f"dlt_assets_{source.name}_{load.pipeline.dataset_name}",  # as in dagster-dlt's component
            dagster_dlt_translator=LoadTranslator(self, load),
            partitions_def=load.partitions_def,
            # A function of one key cannot read a range.
            backfill_policy=load.backfill_policy
            or (dg.BackfillPolicy.multi_run() if "partition_key" in load.partition_parameters else None),
            pool=load.pool,
        )
        def assets(context: dg.AssetExecutionContext, config: LoadOptions) -> Any:
            yield from self.execute(context, LoadResource(options=config.arguments))

        return dg.Definitions(
            assets=[assets], asset_checks=[checks.primary_key_checks(assets)] if load.primary_key_checks else []
        )
