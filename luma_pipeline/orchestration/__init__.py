"""The orchestration room: how Dagster sees the pipeline. The only room that imports dagster."""
