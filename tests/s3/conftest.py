"""Fixtures of the S3 tests: the stores of the media tests."""

from tests.media.conftest import moto, rclone, seaweedfs

__all__ = ["moto", "rclone", "seaweedfs"]
