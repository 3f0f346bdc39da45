"""The provider's room: ask for Luma generations and read the answers as a table. Needs no Dagster.

with LumaClient(ProviderConfig(token=token)) as client:
    table = to_table(client.fetch(task_ids))
"""

from luma_pipeline.luma.client import LumaClient
from luma_pipeline.luma.config import DEFAULT_BASE_URL, ProviderConfig
from luma_pipeline.luma.dialects import GATEWAY, LUMA, SPECS, spec_named
from luma_pipeline.luma.errors import (
    AuthenticationError,
    ClientClosedError,
    InvalidSettingError,
    LinkUnavailableError,
    LumaError,
    ProviderUnavailableError,
    QuotaExceededError,
)
from luma_pipeline.luma.flatten import Drift, Flattened, flatten, to_table
from luma_pipeline.luma.results import FINAL_STATES, Outcome, State, TaskResult
from luma_pipeline.luma.schema import GENERATIONS_SCHEMA, SCHEMA_VERSION
from luma_pipeline.luma.spec import ProviderSpec

__all__ = [
    "DEFAULT_BASE_URL",
    "FINAL_STATES",
    "GATEWAY",
    "GENERATIONS_SCHEMA",
    "LUMA",
    "SCHEMA_VERSION",
    "SPECS",
    "AuthenticationError",
    "ClientClosedError",
    "Drift",
    "Flattened",
    "InvalidSettingError",
    "LinkUnavailableError",
    "LumaClient",
    "LumaError",
    "Outcome",
    "ProviderConfig",
    "ProviderSpec",
    "ProviderUnavailableError",
    "QuotaExceededError",
    "State",
    "TaskResult",
    "flatten",
    "spec_named",
    "to_table",
]
