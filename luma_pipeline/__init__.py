"""A Dagster connector for Luma video generations: task IDs in, Parquet rows and verified videos in S3 out.

The rooms, in the order a task ID passes them: `resources.source_table` reads it, `luma` asks the provider for it,
`resources.dataset` keeps the answer as Parquet, `media` copies the finished video; `assets` shows it all to Dagster.
Importing this package imports none of them, so that `luma_pipeline.luma` and `luma_pipeline.media` can be used where
Dagster is not installed.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
