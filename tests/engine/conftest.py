"""Fixtures of the engine's tests: an S3 store of their own, for what `World` does not show."""

from __future__ import annotations

from tests.media.conftest import seaweedfs

__all__ = ["seaweedfs"]
