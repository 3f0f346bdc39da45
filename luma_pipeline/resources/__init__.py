"""The resources: the outside world as Dagster sees it, thin faces over the rooms `luma` and `media`."""
