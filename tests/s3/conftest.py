"""Fixtures of the S3 tests: the stores of the media tests."""

from tests.media.conftest import area, cdn, moto, rclone, seaweedfs

__all__ = ["area", "cdn", "moto", "rclone", "seaweedfs"]
