"""The provider's room: ask for Luma generations and read the answers as a table. Needs no Dagster.

with LumaClient(token=token) as client:
    table = to_table(client.fetch(task_ids))
"""

from luma_pipeline.luma.client import DEFAULT_BASE_URL, LumaClient
from luma_pipeline.luma.dialects import Dialect
from luma_pipeline.luma.errors import (
    AuthenticationError,
    LinkUnavailableError,
    LumaError,
    ProviderUnavailableError,
    QuotaExceededError,
)
from luma_pipeline.luma.flatten import Drift, Flattened, flatten, to_table
from luma_pipeline.luma.results import FINAL_STATES, Outcome, State, TaskResult
from luma_pipeline.luma.schema import GENERATIONS_SCHEMA, SCHEMA_VERSION

__all__ = [
    "DEFAULT_BASE_URL",
    "FINAL_STATES",
    "GENERATIONS_SCHEMA",
    "SCHEMA_VERSION",
    "AuthenticationError",
    "Dialect",
    "Drift",
    "Flattened",
    "LinkUnavailableError",
    "LumaClient",
    "LumaError",
    "Outcome",
    "ProviderUnavailableError",
    "QuotaExceededError",
    "State",
    "TaskResult",
    "flatten",
    "to_table",
]
