"""All benchmarks, one after the other, in sizes that take less than an hour on two quiet cores.

Usage: python -m benchmarks [--quick] [NAME ...]. Each writes its section of RESULTS.md. A new one is a line in
BENCHMARKS and one in QUICK. `--quick` shows in about ten minutes that all of them work, and writes beside RESULTS.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

BENCHMARKS: dict[str, list[str]] = {
    "resolve": ["--rounds", "2", "--limited", "3000", "--million"],
    "copy": [],
    "again": [],
    "audit": [],
    "backfill": ["--days", "180", "--singly", "8"],
    "limit": [],
    "shared_limit": [],
    "scaling": ["--measure"],
}
"""The modules of this package, with their arguments."""
QUICK: dict[str, list[str]] = {
    "resolve": ["--tasks", "500", "--rounds", "1", "--limited", "300"],
    "copy": ["--small-count", "10", "--large-mb", "60", "--rounds", "1"],
    "again": ["--most", "2000"],
    "audit": ["--most", "10000"],
    "backfill": ["--days", "6", "--singly", "2"],
    "limit": ["--only", "1 x"],
    "shared_limit": ["--only", "1"],
    "scaling": ["--measure"],
}


def main() -> int:
    """Run those that are named, or all. A benchmark that fails does not stop the others."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, which say nothing")
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else BENCHMARKS
    if arguments.quick:
        quick = Path("build") / "RESULTS-quick.md"
        quick.parent.mkdir(exist_ok=True)
        shutil.copy(Path(__file__).parent / "RESULTS.md", quick)
        os.environ["BENCHMARK_RESULTS"] = str(quick.absolute())
    failed = []
    for name in arguments.names or BENCHMARKS:
        print(f"== {name}", flush=True)
        started = time.monotonic()
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sizes[name]], check=False).returncode:
            failed.append(name)
        print(f"== {name}: {time.monotonic() - started:.0f} s", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
