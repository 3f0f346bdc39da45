"""One run of an account, in a process of its own, that sees the others through the root of the datasets.

python -m tests.engine.seen_run DATA_URL BASE_URL TASKS NAME
"""

from __future__ import annotations

import json
import sys
import time

from luma_pipeline.dataset import Dataset
from luma_pipeline.engine.learnt import LimitMemory
from luma_pipeline.luma import LumaClient, ProviderConfig
from luma_pipeline.sandbox.provider import TOKEN


def main(data_url: str, base_url: str, tasks: str, name: str) -> None:
    config = ProviderConfig(token=TOKEN, base_url=base_url)
    limit = LimitMemory(Dataset(url=data_url), config)
    with LumaClient(config, limit.limiter) as client:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        started = time.monotonic()
        results = client.fetch(f"{name}-{number}" for number in range(int(tasks)))
        resolved = sum(result.generation is not None for result in results)
        seconds = time.monotonic() - started
    limit.keep()
    limit.close()
    sys.stdout.write(f"{json.dumps({'resolved': resolved, 'seconds': seconds})}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
