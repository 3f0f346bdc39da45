"""How many examples the properties are tried with: a few in the default suite, and many by `make properties`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("PROPERTIES_TIMES", "1"))
"""By so much there are more examples than in the default suite. Above 1 they are drawn anew in every run."""


def examples(count: int) -> settings:
    """The settings of a property that has so many examples in the default suite. No deadline: machines are busy."""
    return settings(
        max_examples=count * TIMES,
        derandomize=TIMES == 1,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
