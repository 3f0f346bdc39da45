from __future__ import annotations

import pytest

from luma_pipeline.orchestration.instance import Instance


def test_the_unnamed_instance_has_the_plain_names() -> None:
    instance = Instance()
    assert instance.asset_key("luma_videos").path == ["luma_videos"]
    assert (instance.op_name, instance.job_name, instance.pool) == ("luma_pipeline", "luma_job", "luma_api")


def test_two_instances_share_no_name() -> None:
    names = [name for name in dir(Instance) if isinstance(getattr(Instance, name), property)]
    first, second = Instance("eu", ("eu",)), Instance("us", ("us",))
    assert names
    assert {getattr(first, name) for name in names}.isdisjoint({getattr(second, name) for name in names})


@pytest.mark.parametrize("name", ["eu-west", "1st", "a b", "é"])
def test_a_name_that_dagster_refuses_is_told(name: str) -> None:
    with pytest.raises(ValueError, match="letters, digits and underscores"):
        Instance(name)
