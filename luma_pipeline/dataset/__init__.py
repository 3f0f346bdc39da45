"""The dataset's room: Parquet files, checkpoints, marks and the manifest, in a folder or on S3."""
