"""The code location: the component with its settings from the environment."""

import dagster as dg

from luma_pipeline.component import LumaPipelineComponent

# One process a run: the only heavy step is one op, and a second process would cost seconds and outlive a killed run.
defs = dg.Definitions.merge(
    LumaPipelineComponent.from_environment().definitions(), dg.Definitions(executor=dg.in_process_executor)
)
