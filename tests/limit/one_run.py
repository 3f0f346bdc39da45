"""One run of an account, in a process of its own: asks for tasks, and says on standard output how that went.

python -m tests.limit.one_run URL BASE_URL REQUESTS_PER_SECOND TASKS NAME
"""

from __future__ import annotations

import json
import sys
import time

from luma_pipeline.engine.client import SharedLimitReport, open_limiter
from luma_pipeline.luma import LumaClient, ProviderConfig
from luma_pipeline.sandbox.provider import TOKEN


def main(url: str, base_url: str, requests_per_second: str, tasks: str, name: str) -> None:
    config = ProviderConfig(token=TOKEN, base_url=base_url, requests_per_second=float(requests_per_second))
    told: list[str] = []
    limiter = open_limiter(config, url, told.append)
    assert limiter is not None
    started = time.time()
    with LumaClient(config, limiter) as client:
        resolved = 0
        for results in client.fetch_batches(f"{name}-{number}" for number in range(int(tasks))):
            resolved += sum(result.generation is not None for result in results)
            sys.stdout.write(f"{resolved}\n")
            sys.stdout.flush()
    limit = str(SharedLimitReport(limiter.lost_seconds))
    report = {"resolved": resolved, "seconds": time.time() - started, "told": told, "limit": limit}
    sys.stdout.write(f"{json.dumps(report)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
