"""The engine's room: one partition from the source table to the bucket. Needs no Dagster."""
