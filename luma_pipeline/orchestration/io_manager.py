"""The IO manager: datasets as tables for the assets downstream."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import dagster as dg
import pyarrow as pa
from pydantic import Field

from luma_pipeline.dataset import DatasetError
from luma_pipeline.engine.partition import GENERATIONS, TASKS, VIDEOS
from luma_pipeline.errors import ConfigurationError
from luma_pipeline.forget import RECORDS
from luma_pipeline.orchestration.instance import Instance
from luma_pipeline.orchestration.partitions import folder_of
from luma_pipeline.orchestration.resources.dataset import LumaDataset

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LumaParquetIOManager"]

DATASETS = (TASKS, GENERATIONS, VIDEOS)
_ALLOW_MISSING = "allow_missing_partitions"


class OutputError(DatasetError, ConfigurationError):
    """What an asset downstream returned cannot be written; the message says what to return."""


class WrongAssetError(DatasetError, ConfigurationError):
    """An asset is another's, or would lie where a dataset does."""


class LumaParquetIOManager(dg.ConfigurableIOManager):
    """Reads a dataset as the type a parameter is annotated with: `pandas.DataFrame` or `pyarrow.Table`.

    One partition or many: a parameter that maps to several partitions gets the rows of all, in the order of the
    partitions. A partition that was never written is an error, unless the input's metadata has
    `allow_missing_partitions: True`. An asset downstream that uses this IO manager itself and returns a table is
    written beside the datasets, in the same way; the levels of a named index are its first columns.

    `datasets` has the plain names of the datasets by the keys of their assets. What other assets leave lies below the
    root by their key.
    """

    dataset: dg.ResourceDependency[LumaDataset]
    datasets: dict[str, str] = Field(
        default={name: name for name in DATASETS},
        description="Plain names of the datasets by the keys of their assets.",
    )

    @classmethod
    def of(cls, instance: Instance, dataset: LumaDataset) -> Self:
        """The IO manager of an instance, which has the keys of its assets (`Instance.with_keys`)."""
        names = {instance.asset_key(name).to_user_string(): name for name in DATASETS}
        return cls(dataset=dataset, datasets=names)

    def load_input(self, context: dg.InputContext) -> Any:
        """The rows of the upstream asset's partitions."""
        name = context.asset_key.to_user_string()
        path = self._path(context.asset_key)
        tables = []
        missing = []
        for folder in _folders(context):
            file = self.dataset.open().partition(path, folder)
            if file.exists():
                tables.append(file.read())
            else:
                missing.append(folder or name)
        allowed = (context.definition_metadata or {}).get(_ALLOW_MISSING, False)
        if missing and not (allowed and tables):
            shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
            raise DatasetError(
                f"{name} has not been written for {shown}: materialize it first, or set {_ALLOW_MISSING} in the "
                f"input's metadata{self._hint(context)}"
            )
        table = pa.concat_tables(tables, promote_options="permissive")
        wanted = context.dagster_type.typing_type
        if wanted is pa.Table:
            return table
        import pandas as pd

        if wanted in (pd.DataFrame, Any, type(None)):
            return table.to_pandas()
        raise DatasetError(f"{name} can be read as pandas.DataFrame or pyarrow.Table, not as {wanted}")

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write the table that an asset downstream returned; one that returned None has written by itself."""
        if obj is None:
            return
        name = context.asset_key.to_user_string()
        path = self._path(context.asset_key)
        import pandas as pd

        if not isinstance(obj, (pa.Table, pd.DataFrame)):
            hint = " (a Series becomes one by `.reset_index()`)" if isinstance(obj, pd.Series) else ""
            raise OutputError(f"{name} returned {type(obj).__name__}: return a pandas.DataFrame or pyarrow.Table{hint}")
        table = obj if isinstance(obj, pa.Table) else _table(obj, name, context.log.warning)
        _check_distinct(table.schema.names, name)
        folders = _folders(context)
        if len(folders) != 1:
            raise DatasetError(
                f"{name} returned one table for {len(folders)} partitions: give the asset a backfill policy of one "
                "partition a run, or let it write by itself and return MaterializeResult"
            )
        written = self.dataset.open().partition(path, folders[0]).replace(table.schema, [table])
        rows = "dagster/partition_row_count" if context.has_asset_partitions else "dagster/row_count"
        context.add_output_metadata({rows: written.rows, "path": dg.MetadataValue.path(written.path)})

    def _path(self, key: dg.AssetKey) -> str:
        """Where the asset lies below the root. Raises WrongAssetError for a place that is a dataset's."""
        name = key.to_user_string()
        if name in self.datasets:
            return self.datasets[name]
        if key.path[0] in (*DATASETS, RECORDS) or key.path[0].startswith("_"):
            raise WrongAssetError(
                f"{name} is no asset of this IO manager, and its place below {self.dataset.url} is kept for another: "
                f"the IO manager has {', '.join(self.datasets)}. Read an asset through its own IO manager; give an "
                "asset that is written by this one another key"
            )
        return "/".join(key.path)

    def _hint(self, context: dg.InputContext) -> str:
        """Where else to look for an asset that is no dataset of ours: it may have another IO manager."""
        if context.asset_key.to_user_string() in self.datasets or context.upstream_output is None:
            return ""
        own = (context.upstream_output.definition_metadata or {}).get("dagster/io_manager_key")
        return f". It was looked for below {self.dataset.url}; its own IO manager is {own}" if own else ""


def _table(frame: "pd.DataFrame", name: str, warn: Callable[[str], None]) -> pa.Table:
    """The rows of a DataFrame. The levels of an index that has names become the first columns.

    Without a name an index is taken for row numbers and left out; `warn` is told if it looks like more.
    """
    import pandas as pd

    index = frame.index
    rows = frame.reset_index(drop=True)
    rows.columns = pd.Index([str(column) for column in frame.columns], dtype=object)
    _check_distinct(list(rows.columns), name)
    if all(level is None for level in index.names):
        if not pd.api.types.is_integer_dtype(index.dtype):
            warn(f"{name} has an index without a name, which is not written: name it to keep it as a column")
        return pa.Table.from_pandas(rows, preserve_index=False)
    names = [f"level_{number}" if level is None else str(level) for number, level in enumerate(index.names)]
    _check_distinct(names, name)
    columns = index.to_frame(index=False)
    columns.columns = pd.Index(names, dtype=object)
    for column in [column for column in columns if column in rows]:
        if not columns[column].equals(rows[column]):
            raise OutputError(
                f"{name} has an index and a column that are both called {column!r} and differ: rename one of them"
            )
        columns = columns.drop(columns=[column])
    return pa.Table.from_pandas(pd.concat([columns, rows], axis="columns"), preserve_index=False)


def _check_distinct(columns: Sequence[str], name: str) -> None:
    """Raise OutputError for columns of one name: readers of Parquet see one of them, or refuse the file."""
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise OutputError(f"{name} has more than one column called {', '.join(twice)}: give each a name of its own")


def _folders(context: dg.InputContext | dg.OutputContext) -> list[str]:
    if not context.has_asset_partitions:
        return [""]
    definition = context.asset_partitions_def
    return [folder_of(definition, key) for key in context.asset_partition_keys]
