"""The audit's room: whether what is in the bucket is still what the manifests say.

`audit_dataset` is the way in. It knows nothing of Dagster.
"""

from luma_pipeline.audit.audit import AUDIT, audit_dataset
from luma_pipeline.audit.findings import AUDIT_SCHEMA, Kind, Repair, Severity
from luma_pipeline.audit.settings import AuditOptionError, AuditOptions, AuditSettings

__all__ = [
    "AUDIT",
    "AUDIT_SCHEMA",
    "AuditOptionError",
    "AuditOptions",
    "AuditSettings",
    "Kind",
    "Repair",
    "Severity",
    "audit_dataset",
]
