"""The soak: rounds of runs that are killed and disturbed, and what is there afterwards.

    make soak ROUNDS=200 SEED=1

Round number n has the seed SEED + n, and everything that is chosen in it follows from that: `ROUNDS=1 SEED=<its seed>`
does it again. A round that has found something keeps its directory.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.rounds import Result, Round
from tests.faults.scenario import scenario
from tests.faults.stage import Stage, running_stage

_ROUNDS_OF_A_STAGE = 50


@dataclass
class Summary:
    """What the rounds came to."""

    results: list[Result] = field(default_factory=list)

    @property
    def violations(self) -> dict[int, list[str]]:
        """What was found, by the seed of the round."""
        return {result.seed: result.violations for result in self.results if result.violations}

    def as_json(self) -> str:
        recovered = [result.seconds_to_recover for result in self.results if result.seconds_to_recover is not None]
        stopped = [seconds for result in self.results for seconds in result.seconds_to_stop]
        said: dict[str, Any] = {
            "rounds": len(self.results),
            "seeds": f"{self.results[0].seed}..{self.results[-1].seed}" if self.results else "",
            "kills by signal and event": self._sum(lambda result: result.kills),
            "kills": sum(self._sum(lambda result: result.kills).values()),
            "faults by kind": self._sum(lambda result: result.faults),
            "disturbed runs ended as": self._sum(lambda result: result.statuses),
            "rounds with": self._sum(lambda result: Counter(result.features)),
            "readings beside the runs": sum(result.readings for result in self.results),
            "seconds to recover, median": _median(recovered),
            "seconds to recover, worst": round(max(recovered), 2) if recovered else None,
            "seconds to stop, median": _median(stopped),
            "seconds to stop, worst": round(max(stopped), 2) if stopped else None,
            "seconds a round, median": _median([result.seconds for result in self.results]),
            "violations": sum(len(found) for found in self.violations.values()),
            "violations by seed": self.violations,
        }
        return json.dumps(said, indent=2)

    def _sum(self, counts: Callable[[Result], Counter[str]]) -> dict[str, int]:
        total: Counter[str] = Counter()
        for result in self.results:
            total += counts(result)
        return dict(sorted(total.items()))


def _median(values: Sequence[float]) -> float | None:
    return round(statistics.median(values), 2) if values else None


def soak(seeds: range, directory: Path, told: Callable[[Result], None] = lambda _: None) -> Summary:
    """Do the rounds with these seeds, one after the other; an interrupt ends them, and what was done is returned."""
    summary = Summary()
    with suppress(KeyboardInterrupt):
        _do(seeds, directory, summary, told)
    return summary


def _do(seeds: range, directory: Path, summary: Summary, told: Callable[[Result], None]) -> None:
    for start in range(0, len(seeds), _ROUNDS_OF_A_STAGE):
        place = directory / f"stage-{start}"
        with running_stage(place) as stage:
            for seed in seeds[start : start + _ROUNDS_OF_A_STAGE]:
                result = one_round(stage, seed, directory / f"round-{seed}")
                summary.results.append(result)
                told(result)


def one_round(stage: Stage, seed: int, directory: Path, *, patience_seconds: float | None = None) -> Result:
    """Do one round. Its directory stays if something was found."""
    round_ = Round(stage, scenario(seed), directory)
    if patience_seconds is not None:
        round_.patience_seconds = patience_seconds
    try:
        result = round_.play()
    except Exception:  # noqa: BLE001 - the other rounds go on
        result = round_.result
        result.violations.append(f"the soak itself: {traceback.format_exc()}")
    if not result.violations:
        round_.clean()
    return result


def _tell(result: Result) -> None:
    recovered = "not" if result.seconds_to_recover is None else f"in {result.seconds_to_recover:.1f} s"
    kills = ", ".join(f"{count} {kill}" if count > 1 else kill for kill, count in result.kills.items()) or "no kill"
    line = f"{time.strftime('%H:%M:%S')} seed {result.seed}: {result.seconds:.1f} s, {kills}; recovered {recovered}"
    for violation in result.violations:
        line += f"\n  VIOLATION {violation}"
    sys.stderr.write(line + "\n")


@contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        os.chmod(directory, 0o755)  # PostgreSQL runs as another user
        yield Path(directory)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a new folder for what is kept of rounds that found something")
    parser.add_argument("--prove", action="store_true", help="break each invariant by hand, and show that it is seen")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with _directory(arguments.keep) as directory:
        if arguments.prove:
            from tests.faults import prove

            return prove.main(directory)
        summary = soak(range(arguments.seed, arguments.seed + arguments.rounds), directory, _tell)
    sys.stdout.write(summary.as_json() + "\n")
    return 1 if summary.violations else 0


if __name__ == "__main__":
    sys.exit(main())
