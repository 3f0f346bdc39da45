"""A Dagster connector for Luma video generations: task IDs in, Parquet rows and verified videos in S3 out.

The names of this package are loaded when they are first used. So `luma_pipeline.luma` and `luma_pipeline.media` need no
Dagster, SQLAlchemy or pandas, and the engine needs no Dagster.

>>> import luma_pipeline
>>> luma_pipeline.RunOptions(dry_run=True).dry_run
True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luma_pipeline.component import LumaPipelineComponent
    from luma_pipeline.engine.partition import PartitionReport
    from luma_pipeline.engine.progress import Progress
    from luma_pipeline.engine.run import plan_partition, run_partition
    from luma_pipeline.engine.settings import EngineSettings, Policies, RunOptions
    from luma_pipeline.errors import ConfigurationError, ItemError, LumaPipelineError, PassingError
    from luma_pipeline.luma import LumaClient, ProviderConfig
    from luma_pipeline.media import MediaCopier, TransferConfig
    from luma_pipeline.source.table import SourceTable

__version__ = "0.1.0"
__all__ = [
    "ConfigurationError",
    "EngineSettings",
    "ItemError",
    "LumaClient",
    "LumaPipelineComponent",
    "LumaPipelineError",
    "MediaCopier",
    "PartitionReport",
    "PassingError",
    "Policies",
    "Progress",
    "ProviderConfig",
    "RunOptions",
    "SourceTable",
    "TransferConfig",
    "__version__",
    "plan_partition",
    "run_partition",
]

_MODULES = {
    "component": ("LumaPipelineComponent",),
    "engine.partition": ("PartitionReport",),
    "engine.progress": ("Progress",),
    "engine.run": ("plan_partition", "run_partition"),
    "engine.settings": ("EngineSettings", "Policies", "RunOptions"),
    "errors": ("ConfigurationError", "ItemError", "LumaPipelineError", "PassingError"),
    "luma": ("LumaClient", "ProviderConfig"),
    "media": ("MediaCopier", "TransferConfig"),
    "source.table": ("SourceTable",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'luma_pipeline' has no attribute {name!r}")
    return getattr(import_module(f"luma_pipeline.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
