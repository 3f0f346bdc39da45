"""Benchmarks: ratios against rivals measured in the same run. Not part of the tests."""
