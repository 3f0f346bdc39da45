"""What the schedule and the sensor ask for: pure functions of what is known and the time.

Nothing here touches Dagster's instance or the datasets. `automation` gathers a `State`, and applies the `Decision`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile

from dagster import TimeWindow, TimeWindowPartitionsDefinition

from luma_pipeline.engine.policy import GiveUpPolicy
from luma_pipeline.engine.settings import Policies
from luma_pipeline.orchestration.partitions import periods_before, window_of

__all__ = ["BusyTime", "Decision", "RevisitPolicy", "Span", "State", "decide_regular", "decide_revisits"]

_MOST_LOOKUPS = 200
"""Periods of which one tick looks up whether they were ever read: four runs' worth by default, each a request to S3."""
_FARTHEST = 2000
"""Periods before the open one that a tick goes back over: 83 days of hours, 0.1 s."""
_MOST_RUNS = 20
"""Runs that one tick asks for. What is due beyond them is asked for by the next ticks."""
_LARGEST_GAP = 2
"""Partitions between two due ones that are asked along. They cost a read of two files; a run of its own, seconds."""
_NEVER = datetime.fromtimestamp(0, UTC)

Windows = dict[str, TimeWindow]
"""Windows by partition key."""


@dataclass(frozen=True)
class RevisitPolicy:
    """When the sensor comes back to a closed partition with open tasks. All in seconds.

    The pause is a share of the partition's age, within its bounds: a task that has been open for minutes may end any
    minute, one that has been open for days will not. After `give_up_after` the partition is left alone.
    """

    give_up_after: float = Policies.give_up_after_seconds
    shortest_pause: float = 600.0
    longest_pause: float = 6 * 3600.0
    share_of_age: float = 0.25

    def is_due(self, window_end: datetime, asked_at: datetime, now: datetime) -> bool:
        """Whether to ask again; all times aware. A period that has just closed is the schedule's for a while."""
        age = (now - window_end).total_seconds()
        pause = min(max(age * self.share_of_age, self.shortest_pause), self.longest_pause)
        return age >= self.shortest_pause and now - asked_at >= timedelta(seconds=pause)


class BusyTime:
    """The time that the partitions of runs under way cover, from pairs of first and last beginnings in epoch seconds.

    Kept as disjoint spans in order: a question is quick with a thousand partitions and as many runs of a backfill.
    """

    def __init__(self, spans: Iterable[tuple[float, float]] = ()) -> None:
        self._firsts: list[float] = []
        self._lasts: list[float] = []
        for first, last in sorted(spans):
            if self._lasts and first <= self._lasts[-1]:
                self._lasts[-1] = max(self._lasts[-1], last)
            else:
                self._firsts.append(first)
                self._lasts.append(last)

    def holds(self, start: datetime, end: datetime) -> bool:
        """Whether a run under way works on any partition that begins in [start, end)."""
        before_end = bisect_left(self._firsts, end.timestamp())
        return before_end > 0 and self._lasts[before_end - 1] >= start.timestamp()


@dataclass(frozen=True)
class State:
    """What a tick knows. `open_marks` and `unfinished_marks` tell by partition key when each mark was set.

    `was_read` tells whether a run has gone through a partition to its end; it may cost a request to S3. `requested`
    tells when the sensor last asked for each partition.
    """

    partitions: TimeWindowPartitionsDefinition
    was_read: Callable[[str], bool]
    partitions_per_run: int
    open_marks: Mapping[str, datetime] = field(default_factory=dict)
    unfinished_marks: Mapping[str, datetime] = field(default_factory=dict)
    busy: BusyTime = field(default_factory=BusyTime)
    requested: Mapping[str, datetime] = field(default_factory=dict)
    policy: RevisitPolicy = field(default_factory=RevisitPolicy)

    def give_up(self, now: datetime) -> GiveUpPolicy:
        """Which partitions are left alone, by the end of their window."""
        return GiveUpPolicy(self.policy.give_up_after, now)


@dataclass(frozen=True)
class Span:
    """Partitions next to each other, for one run."""

    first: str
    last: str
    window: TimeWindow
    partitions: int


@dataclass(frozen=True)
class Decision:
    """What a tick does: runs to ask for, keys whose `unfinished` mark is set and whose `open` mark is cleared.

    `requested` is what the sensor's next tick has to know. `reason` says why there are no runs.
    """

    runs: list[Span]
    reason: str = ""
    to_mark_unfinished: list[str] = field(default_factory=list)
    to_clear_open: list[str] = field(default_factory=list)
    requested: Mapping[str, datetime] = field(default_factory=dict)


def decide_regular(state: State, now: datetime) -> Decision:
    """What the schedule asks for: the open period, the one before it until nothing of it can come any more, and those
    that nobody has read.

    `now` is in UTC: Python takes the difference of two times of one zone by the clock on the wall.
    """
    partitions = state.partitions
    if now.timestamp() < partitions.start_timestamp:
        return Decision([], f"the first period begins at {partitions.start}")
    open_key, open_window = _open_period(partitions, now)
    left, to_mark = _left_to_read(state, open_window, now)
    windows = {**left, open_key: open_window}
    held = [key for key, window in windows.items() if state.busy.holds(window.start, window.end)]
    free = {key: window for key, window in windows.items() if key not in held}
    # The open period has a run of its own: it is asked for most often, and seen in the UI by its partition.
    is_open_free = free.pop(open_key, None) is not None
    # What is left has a mark, by which the sensor asks for it.
    runs = _spans(state, free)[:_MOST_RUNS]
    if is_open_free:
        runs.append(Span(open_key, open_key, open_window, 1))
    return Decision(runs, _still_under_way(held), to_mark)


def _open_period(partitions: TimeWindowPartitionsDefinition, now: datetime) -> tuple[str, TimeWindow]:
    key = partitions.get_partition_key_for_timestamp(now.timestamp())
    return key, partitions.time_window_for_partition_key(key)


def _left_to_read(state: State, open_window: TimeWindow, now: datetime) -> tuple[Windows, list[str]]:
    """The period before the open one if it is unfinished, or those since the last one that was read; and which of them
    get a mark, which stands until they are read, however the run ends that is asked for.

    If none was read in the time that the policy comes back for, the first deployment's included, there are none:
    what is older is a backfill's.
    """
    missed: Windows = {}
    for key, window in islice(periods_before(state.partitions, open_window), _MOST_LOOKUPS):
        if key in state.unfinished_marks and not missed:
            return {key: window}, []
        if key in state.unfinished_marks or state.was_read(key):
            return missed, list(missed)
        if state.give_up(now).on(window.end):
            break
        missed[key] = window
    return {}, []


def _still_under_way(keys: list[str]) -> str:
    if len(keys) == 1:
        return f"the run for {keys[0]} is still under way"
    return f"the runs for {', '.join(keys[:3])}{' …' if len(keys) > 3 else ''} are still under way"


def decide_revisits(state: State, now: datetime) -> Decision:
    """What the sensor asks for: closed partitions with tasks or videos still open, or not read to their end."""
    return _Revisits(state, now).decision()


class _Revisits:
    """What a tick of the sensor finds: the partitions to ask again, and those that are left for another tick."""

    def __init__(self, state: State, now: datetime) -> None:
        self._state = state
        self._now = now
        self._give_up = state.give_up(now)
        self._requested = dict(state.requested)
        self._due: Windows = {}
        self._held: set[str] = set()
        self._waiting: set[str] = set()
        self._to_mark: list[str] = []
        self._to_clear: list[str] = []

    def decision(self) -> Decision:
        open_marks = self._open(self._windows(self._state.open_marks))
        unfinished = self._windows(self._state.unfinished_marks)
        for key, (window, marked_at) in (open_marks | unfinished).items():
            asked_at = min(marked_at, open_marks.get(key, (window, marked_at))[1])
            if self._is_due(key, window, asked_at):
                self._add(key, window)
            else:
                self._waiting.add(key)
        closed = [window.start.timestamp() for window, _ in unfinished.values() if window.end <= self._now]
        if closed:
            self._add_missed(min(closed), open_marks.keys() | unfinished.keys())
        longest_pause = timedelta(seconds=self._state.policy.longest_pause)
        requested = {key: at for key, at in self._requested.items() if self._now - at < longest_pause}
        # The oldest first: they are given up next.
        runs = _spans(self._state, self._due)[:_MOST_RUNS]
        end = runs[-1].window.end if runs else self._now
        requested.update((key, self._now) for key, window in self._due.items() if window.end <= end)
        return Decision(runs, self._why_nothing_is_due(), self._to_mark, self._to_clear, requested)

    def _why_nothing_is_due(self) -> str:
        reasons = []
        if self._held:
            reasons.append(f"{len(self._held)} partitions are due, and runs under way work on them")
        if self._waiting:
            reasons.append(f"{len(self._waiting)} partitions have open tasks or an open period, none is due yet")
        return "; ".join(reasons) or "no open tasks"

    def _windows(self, marks: Mapping[str, datetime]) -> dict[str, tuple[TimeWindow, datetime]]:
        """The windows of the marked partitions that have begun, and when each mark was set.

        A key without a window was left by another setting of the partitions.
        """
        windows = ((key, window_of(self._state.partitions, key), marked_at) for key, marked_at in marks.items())
        return {key: (window, at) for key, window, at in windows if window is not None and window.start <= self._now}

    def _open(self, marks: dict[str, tuple[TimeWindow, datetime]]) -> dict[str, tuple[TimeWindow, datetime]]:
        """The partitions with open tasks that are still awaited.

        A period that was not read to its end is never too old: what was submitted after its last reading is in no
        other partition. Only open tasks are given up.
        """
        self._to_clear = [key for key, (window, _) in marks.items() if self._give_up.on(window.end)]
        return {key: marks[key] for key in marks.keys() - set(self._to_clear)}

    def _add_missed(self, since: float, marked: AbstractSet[str]) -> None:
        """Add the periods that nobody has read since the oldest unfinished one, for want of a schedule that ran.

        Those that were read to their end have no mark either; they are remembered like the ones asked for.
        """
        _, open_window = _open_period(self._state.partitions, self._now)
        periods = takewhile(
            lambda period: period[1].start.timestamp() > since and not self._give_up.on(period[1].end),
            islice(periods_before(self._state.partitions, open_window), _FARTHEST),
        )
        unknown = [period for period in periods if period[0] not in marked and self._is_due(*period, _NEVER)]
        unknown.reverse()
        looked_up, rest = dict(unknown[:_MOST_LOOKUPS]), unknown[_MOST_LOOKUPS:]
        self._requested.update(dict.fromkeys(looked_up, self._now))
        for key, window in looked_up.items():
            if not self._state.was_read(key):
                self._to_mark.append(key)
                self._add(key, window)
        # A mark for the rest, from which the next tick goes on when those before it have been read.
        self._to_mark += [key for key, _ in rest[:1]]

    def _is_due(self, key: str, window: TimeWindow, asked_at: datetime) -> bool:
        asked_at = max(asked_at, self._requested.get(key, asked_at))
        return self._state.policy.is_due(window.end, asked_at, self._now)

    def _add(self, key: str, window: TimeWindow) -> None:
        if self._state.busy.holds(window.start, window.end):
            self._held.add(key)
        else:
            self._due[key] = window


def _spans(state: State, windows: Windows) -> list[Span]:
    """Few spans that hold all these windows and nothing that a run under way works on, in the order of time."""
    spans: list[Span] = []
    for key, window in sorted(windows.items(), key=lambda item: item[1].start.timestamp()):
        if spans:
            last = spans[-1]
            gap = state.partitions.get_num_partitions_in_window(TimeWindow(last.window.end, window.start))
            longer = last.partitions + gap + 1
            free = not state.busy.holds(last.window.end, window.start)
            if free and gap <= _LARGEST_GAP and longer <= state.partitions_per_run:
                spans[-1] = Span(last.first, key, TimeWindow(last.window.start, window.end), longer)
                continue
        spans.append(Span(key, key, window, 1))
    return spans
