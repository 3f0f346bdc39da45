"""The names of one component: two components with different names stand side by side in a deployment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import dagster as dg

__all__ = ["POOL", "UNNAMED", "Instance"]

POOL = "luma_api"
"""The concurrency pool of the unnamed instance."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Instance:
    """What one component is called in Dagster. The unnamed instance has the plain names.

    `name` begins the names of the op, job, schedule, sensor and resources. `key_prefix` begins the asset keys. `pool`
    is the concurrency pool of the op; None: the op is in no pool. `keys` holds the keys of assets that a translation
    has given another key than prefix and name.

    Raises:
        ValueError: The name has other characters than letters, digits and underscores.

    >>> Instance("eu", ("eu",)).job_name
    'eu_luma_job'
    >>> Instance("eu", ("eu",)).asset_key("luma_videos").to_user_string()
    'eu/luma_videos'
    >>> Instance().op_name
    'luma_pipeline'
    """

    name: str = ""
    key_prefix: tuple[str, ...] = ()
    pool: str | None = POOL
    keys: Mapping[str, dg.AssetKey] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name and not _NAME.fullmatch(self.name):
            raise ValueError(f"must be letters, digits and underscores, and begin with a letter, not {self.name!r}")

    def asset_key(self, asset: str) -> dg.AssetKey:
        """The key of an asset with this plain name."""
        return self.keys.get(asset) or dg.AssetKey([*self.key_prefix, asset])

    def with_keys(self, specs: Mapping[str, dg.AssetSpec]) -> Instance:
        """This instance with the keys that the specs have, by the plain name of each asset."""
        return replace(self, keys={name: spec.key for name, spec in specs.items()})

    def tag(self, plain: str) -> str:
        """A tag of this instance on a run; a run may be of several instances."""
        return f"{self.named('luma')}/{plain}"

    def named(self, plain: str) -> str:
        """A name of this instance: of an op, a job, a schedule, a sensor or a resource."""
        return f"{self.name}_{plain}" if self.name else plain

    @property
    def op_name(self) -> str:
        """The op behind the assets."""
        return self.named("luma_pipeline")

    @property
    def checks_op_name(self) -> str:
        """The op of the asset checks."""
        return self.named("luma_checks")

    @property
    def job_name(self) -> str:
        """The job of the schedule and the sensor."""
        return self.named("luma_job")

    @property
    def forget_name(self) -> str:
        """The job that forgets tasks."""
        return self.named("luma_forget")

    @property
    def forget_op_name(self) -> str:
        """The op of the job that forgets tasks. Dagster takes no op and job of one name."""
        return self.named("luma_forget_op")

    @property
    def schedule_name(self) -> str:
        """The schedule of the open period."""
        return self.named("luma_schedule")

    @property
    def sensor_name(self) -> str:
        """The sensor that comes back for open tasks."""
        return self.named("luma_open_tasks_sensor")

    @property
    def audit_job_name(self) -> str:
        """The job of the audit."""
        return self.named("luma_audit")

    @property
    def audit_op_name(self) -> str:
        """The op of the audit."""
        return self.named("luma_audit_op")

    @property
    def audit_schedule_name(self) -> str:
        """The schedule of the audit."""
        return self.named("luma_audit_schedule")

    @property
    def source_key(self) -> str:
        """The resource of the source table."""
        return self.named("luma_source")

    @property
    def provider_key(self) -> str:
        """The resource of the provider."""
        return self.named("luma_provider")

    @property
    def dataset_key(self) -> str:
        """The resource of the datasets."""
        return self.named("luma_dataset")

    @property
    def bucket_key(self) -> str:
        """The resource of the bucket."""
        return self.named("luma_bucket")

    @property
    def io_manager_key(self) -> str:
        """The IO manager."""
        return self.named("luma_parquet")


UNNAMED = Instance()
"""The instance with the plain names."""
