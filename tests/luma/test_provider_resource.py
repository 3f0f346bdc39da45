"""The provider's resource: its fields reach the client, and are checked when a run starts."""

from __future__ import annotations

from typing import Any

import pytest

from luma_pipeline.orchestration.resources.provider import LumaProvider


@pytest.mark.parametrize("settings", [{"max_retry_seconds": -1.0}, {"unavailable_seconds": -1.0}, {"max_attempts": 0}])
def test_a_field_out_of_range_is_refused_by_its_name(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        LumaProvider(token="t", **settings).client()
