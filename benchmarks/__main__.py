"""All benchmarks, one after the other, in sizes that take less than an hour on two quiet cores.

Usage: python -m benchmarks [NAME ...]. Each writes its section of RESULTS.md. A new one is a line in BENCHMARKS.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

BENCHMARKS: dict[str, list[str]] = {
    "resolve": ["--limited", "5000"],
    "copy": ["--large-mb", "1000"],
    "again": [],
    "audit": [],
    "backfill": ["--days", "180", "--singly", "8"],
    "limit": [],
    "shared_limit": [],
    "scaling": ["--measure"],
}
"""The modules of this package, with their arguments."""


def main() -> int:
    """Run those that are named, or all. A benchmark that fails does not stop the others."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], metavar="NAME", help=", ".join(BENCHMARKS))
    failed = []
    for name in parser.parse_args().names or BENCHMARKS:
        print(f"== {name}", flush=True)
        started = time.monotonic()
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *BENCHMARKS[name]], check=False).returncode:
            failed.append(name)
        print(f"== {name}: {time.monotonic() - started:.0f} s", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
