"""The assets: one partition's way from the source table to the bucket, and how Dagster sees it."""
