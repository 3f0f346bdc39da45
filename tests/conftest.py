"""What every test is kept from: the traces that another test's Dagster instance leaves in the process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dagster._core.storage.defs_state.base import set_defs_state_storage


@pytest.fixture(autouse=True)
def _no_storage_of_another_instance() -> Iterator[None]:
    """Dagster keeps the storage of the last instance for the process, and the storage a weak reference to the instance.

    One that was never closed would break the definitions that later tests load.
    """
    with set_defs_state_storage(None):
        yield
