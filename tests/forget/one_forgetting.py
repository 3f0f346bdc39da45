"""Forgets tasks in processes of their own, each a fork of this one, which has imported everything.

Usage: python -m tests.forget.one_forgetting DATA_URL BUCKET. Each line on standard input is a task ID. For each the
process ID of the fork is written, and when it has ended how: its exit status, or the signal as a negative number.
"""

from __future__ import annotations

import os
import sys

from luma_pipeline.forget import ForgetRequest, ForgetSettings, forget_tasks
from luma_pipeline.gallery import GallerySettings
from luma_pipeline.media import TransferConfig


def main(data_url: str, bucket: str) -> None:
    for line in sys.stdin:
        child = os.fork()
        if not child:
            settings = ForgetSettings(data_url, TransferConfig(bucket=bucket), GallerySettings())
            report = forget_tasks(settings, ForgetRequest.of([line.strip()], reason="killed"))
            os._exit(len(report.unreached))
        print(child, flush=True)  # noqa: T201
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
