"""The rooms below as Dagster resources: settings in, plain objects out."""
