"""The limit room: the rate at which requests may leave, by the time, the refusals, and what other runs tell."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from enum import Enum, auto
from statistics import fmean

from luma_pipeline.limit.peers import Peer

__all__ = ["PeerRateCalculator", "RateCalculator", "RateClocker"]


class RateClocker:
    """Measures how fast requests leave, and how many were accepted since the last refusal. Monotonic seconds."""

    RECENT = 16
    PAUSE = 1.0

    def __init__(self, now: float) -> None:
        self._sent: deque[float] = deque(maxlen=self.RECENT)
        self._since = now
        self.accepted = 0
        self.accepted_by_all = 0.0

    def send(self, now: float) -> None:
        """Count a request that leaves. Those before a pause are forgotten."""
        if self._sent and now - self._sent[-1] > self.PAUSE:
            self._sent.clear()
        self._sent.append(now)

    def accept(self, by_all: float) -> None:
        """Count an answer that was not "too fast"; all runs together had `by_all` meanwhile."""
        self.accepted += 1
        self.accepted_by_all += by_all

    def restart(self, now: float) -> None:
        """Forget the answers so far."""
        self._since, self.accepted, self.accepted_by_all = now, 0, 0.0

    def seconds(self, now: float) -> float:
        """Since the last restart."""
        return now - self._since

    def accepted_per_second(self, now: float) -> float:
        """The mean rate of this run since the last restart."""
        return self.accepted / max(1e-3, now - self._since)

    def accepted_by_all_per_second(self, now: float) -> float:
        """The mean rate of all runs since then."""
        return self.accepted_by_all / max(1e-3, now - self._since)

    def sent_per_second(self, now: float) -> float:
        """The mean rate of the last requests that left; infinite while there are too few to tell."""
        if len(self._sent) < self.RECENT // 2:
            return math.inf
        return len(self._sent) / max(1e-3, now - self._sent[0])


class _Phase(Enum):
    STARTING = auto()
    """No refusal yet: the rate doubles."""
    MEASURING = auto()
    """After the first refusal, which told that the limit's burst is used up. The second one tells the limit."""
    SHARING = auto()


class RateCalculator:
    """The rate, by the time and by the refusals: additive increase, multiplicative decrease.

    Of two runs under one limit the faster one is refused more often, and both grow alike. So their shares become equal
    (Chiu and Jain, 1989), as those of TCP flows on one link do. The increase is CUBIC's (RFC 9438): the longer there
    is no refusal, the faster the rate grows.

    The rate is that of all runs together, of which this one has its part (`share`). Runs that see one another agree on
    the mean of their rates (consensus averaging), so that they grow, and fall, as one. A run that comes takes the rate
    of the others over, and its part; what a run leaves is in the parts of the others at once.
    """

    START = 25.0
    """Requests per second at first."""
    DOUBLING = 0.27
    """Seconds in which that doubles up to the first refusal."""
    KNOWN_START, KNOWN_DOUBLING = 0.8, 0.09
    """The share of a limit that is known at which the rate begins, and the seconds in which it doubles up to it."""
    LATENCIES = 5.0
    """It is no more than so many times the latency: the nearer the provider, the sooner it tells."""
    KNOWN_SECONDS = 8.0
    """Seconds for which a known limit is kept to. If nothing is refused, the rate is e times that in half as many more,
    and e^8 times that in as many more."""
    HALF = 0.5
    """What is left of the rate at the first refusal. By then it has about doubled, while the burst was used up."""
    FEW, FIRST = 6, 7.5
    """With fewer answers than FEW by then, others use the limit up, or it has no burst: FIRST requests per second."""
    CLIMB = 0.25
    """Share by which the rate grows in a second from there to the second refusal. It grows faster and faster."""
    CLIMB_FALL = 0.1
    """What the second refusal takes off the rate where there were too few answers to measure by."""
    MARGIN = 0.98
    """What it leaves of the measured limit."""
    MEASURED = 12
    """Answers between two refusals by which a limit is measured."""
    LEAST_SECONDS = 0.25
    """Seconds between them: less would tell of a burst, or of a window of a second."""
    MEASURED_SHARE = 0.83
    """How far a later refusal takes the rate towards what was measured."""
    FALL = 1.1
    """A refusal after n answers takes FALL / √n off: they tell the limit no better. It falls far when refusals follow
    one another, so that a run that comes late finds room."""
    LEAST_FALL, MOST_FALL = 0.01, 0.24
    STEP = 0.34
    """Requests per second that the rate grows by in a second, whatever it is. That of several runs grows by their part
    of that: each refusal counts with one of them alone."""
    FLAT = 1.7
    FLAT_REQUESTS = 12.0
    """Seconds, and time of so many requests, from a refusal until the rate has grown by a third more than that. From
    there on it grows with the third power of the time, as CUBIC's does: others have gone."""
    MOST_GROWTH = 0.25
    """Share by which the rate grows in a second at most."""
    HELD = 3.0
    """The rate grows this many times more slowly for each second that a refusal holds all requests."""
    SAME, CALMER, LEAST_GAIN = 0.04, 0.6, 0.1
    """While the limit is measured the same but for the share SAME, nobody else is there. Steps up and down are CALMER
    times as large each time."""
    SETTLE, DEAF = 0.35, 0.06
    """Seconds after the first two refusals, and after later ones, in which others are heard as one with them. A
    request's latency comes on top."""
    MOST_LATENCY = 0.5
    NEWCOMER_SECONDS, NEWCOMER_SHARE = 0.7, 0.2
    """A run that comes to others begins with a share of its part, and has all of it when they have seen it."""
    BURST_OF_RUNS = 0.15
    """Seconds of the limit that its burst is taken for by several runs: none of them can tell it."""
    ROUNDS = 3
    """Looks after a refusal at which runs go on to agree. Later, what is told is behind the growth since."""
    MET = 1.0
    """Seconds for which a refusal is forgiven when a newcomer is seen who explains it."""
    CATCH_UP = 0.05
    """Seconds by which a thread may come late and still take the slot that it was late for."""
    FLOOR = 0.5
    """Requests per second that are always allowed: a long outage must not stop the requests for good."""
    CEILING = 1e6

    def __init__(self, now: float) -> None:
        self.clocker = RateClocker(now)
        self.most: float | None = None
        """The highest rate at which the provider took requests for a second between two refusals."""
        self._phase = _Phase.STARTING
        self._base = self.START
        self._doubling = self.DOUBLING
        self._known = self.CEILING
        self._since = now
        self._deaf_until = -math.inf
        self._latency = 0.0
        self._at_first = (0, 0.0)
        self._measured: float | None = None
        self._held = 0.0
        self._gain = 1.0
        self._refusals = 0
        self._met: Mapping[str, Peer] = {}
        self._is_alone = self._is_own = True
        self._joined_at = -math.inf
        self._before_fall = (0.0, -math.inf)
        self._is_news = False
        self._rounds = 0

    @property
    def runs(self) -> int:
        """How many share the rate, this run included."""
        return len(self._met) + 1

    @property
    def is_starting(self) -> bool:
        """Whether no refusal has come."""
        return self._phase is _Phase.STARTING

    def begin(self, now: float, known: float | None = None) -> None:
        """The first request leaves. `known` is the limit where it is known."""
        self._since = now
        self.clocker.restart(now)
        if known is not None:
            self._is_own = False
            self._known = known
            self._base = min(max(self._base, self.KNOWN_START * known), known)
            self._doubling = self.KNOWN_DOUBLING

    def on_first_answer(self, now: float, latency: float) -> None:
        """The first request was answered after `latency` seconds. The nearer the provider, the faster the start."""
        self._latency = min(latency, self.MOST_LATENCY)
        if self._phase is not _Phase.STARTING or self._met:
            return
        self._base = min(self._known, max(self._base, 1.0 / max(latency, 1e-3)))
        self._doubling = min(self._doubling, max(1e-3, self.LATENCIES * latency))
        self._since = now

    def on_success(self, now: float) -> None:
        """A request was answered and was not too fast."""
        self.clocker.accept(self.runs / self._part(now))

    def idle(self, seconds: float) -> None:
        """Nothing was asked for `seconds`: they tell nothing."""
        self._since += seconds

    def share(self, now: float) -> float:
        """Requests per second that this run may send now."""
        return self._part(now) * self.rate(now) / self.runs

    def _part(self, now: float) -> float:
        """How much of its part this run uses."""
        grown = (now - self._joined_at) / self.NEWCOMER_SECONDS
        return min(1.0, self.NEWCOMER_SHARE + (1.0 - self.NEWCOMER_SHARE) * grown)

    def peer(self, now: float, beat: int) -> Peer:
        """What the other runs are told."""
        is_known = self._known < self.CEILING
        return Peer(
            max(self.rate(now), self._known) if is_known else self.rate(now),
            min(self.share(now), self.clocker.sent_per_second(now)),
            frozenset(self._met),
            self._is_own,
            self._phase is not _Phase.STARTING,
            is_known or self._phase is _Phase.SHARING,
            self._refusals,
            beat,
        )

    def join(self, now: float, others: Mapping[str, Peer]) -> None:
        """Others are at work while the first request is about to leave: begin with a part of their rate."""
        self._met = others
        self._is_alone = self._is_own = False
        self._joined_at = now
        measured = [other.rate for other in others.values() if other.is_measured]
        if measured:
            self._go_on(now, _Phase.SHARING, fmean(measured))
        elif self._known == self.CEILING:
            is_refused = any(other.is_refused for other in others.values())
            phase = _Phase.MEASURING if is_refused else _Phase.STARTING
            self._go_on(now, phase, sum(other.share for other in others.values()))

    def meet(self, now: float, run: str, others: Mapping[str, Peer]) -> None:
        """Take in what the others have told. `run` is the name of this one."""
        share = self.rate(now) / self.runs
        earlier, self._met = self._met, others
        self._is_alone &= not others
        strangers = [other for name, other in others.items() if name not in earlier]
        if self._is_own:
            self._base *= 1.0 + sum(min(share, other.share) for other in strangers if other.is_own) / self.rate(now)
        measured = [
            # A run that began by itself, and has not met this one, knows nothing of what this one takes.
            other.rate + (share if self._is_own and other.is_own and run not in other.met else 0.0)
            for other in others.values()
            if other.is_measured
        ]
        self._is_news |= any(
            other.refusals > (earlier[name].refusals if name in earlier else 0) for name, other in others.items()
        )
        if self._phase is _Phase.SHARING:
            if now - self._before_fall[1] < self.MET and not all(other.is_own for other in strangers):
                self._base *= self._before_fall[0] / self.rate(now)
            rate = self.rate(now)
            agreed = fmean([rate, *measured])
            if self._is_news:
                self._base, self._since, self._rounds = agreed, now, self.ROUNDS
            elif self._rounds:
                self._base = max(agreed / 2.0, self._base + agreed - rate)
                self._rounds -= 1
            self._is_news = False
        else:
            self._meet_at_start(now, others, measured)
        if self.rate(now) / self.runs < self.MARGIN * share:
            self._deaf_until = max(self._deaf_until, now + self.DEAF)

    def _meet_at_start(self, now: float, others: Mapping[str, Peer], measured: list[float]) -> None:
        """No limit was measured by this run. What another has measured, and its refusal, counts for all."""
        refused = [other.share for other in others.values() if other.is_refused]
        if measured and self._phase is _Phase.STARTING and self._known < self.CEILING:
            known = fmean([self._known, *measured])
            self._base *= known / self._known
            self._known = known
        elif others and self._phase is _Phase.MEASURING and self._known < self.CEILING:
            # The refusal came since others are there, and tells nothing of the limit.
            self._go_on(now, _Phase.SHARING, fmean([self._known * self.MARGIN, *measured]))
        elif measured:
            own = [self.rate(now)] if self._phase is _Phase.MEASURING else []
            self._go_on(now, _Phase.SHARING, fmean([*own, *measured]))
        elif refused and self._phase is _Phase.STARTING:
            rate = self.rate(now)
            self._at_first = self.clocker.accepted, rate
            self._go_on(now, _Phase.MEASURING, min(self.HALF * rate, self.runs * fmean(refused)))
        elif refused and self._phase is _Phase.MEASURING and self._is_news:
            self._base = fmean([self.rate(now), *(self.runs * each for each in refused)])
            self._since = now
            self._is_news = False

    def _go_on(self, now: float, phase: _Phase, rate: float) -> None:
        self._phase, self._base, self._since, self._known = phase, rate, now, self.CEILING
        self.clocker.restart(now)

    def leave(self) -> None:
        """Nothing was asked for so long that the others have taken this run's part."""
        self._is_own = False

    def rate(self, now: float) -> float:
        """Requests per second allowed now, to all runs together."""
        seconds = max(0.0, now - self._since)
        if self._phase is _Phase.STARTING:
            doubled = self._base * math.exp2(min(seconds / self._doubling, 64.0))
            if doubled < self._known:
                return min(doubled, self.CEILING)
            beyond = seconds - self._doubling * math.log2(self._known / self._base)
            e_folds = max(0.0, 2.0 * (beyond / self.KNOWN_SECONDS - 1.0)) ** 3
            return min(self.CEILING, self._known * math.exp(min(50.0, e_folds)))
        if self._phase is _Phase.MEASURING:
            e_folds = self.CLIMB * (seconds + seconds * seconds / 2.0)
            return min(self.CEILING, self._base * math.exp(min(50.0, e_folds)))
        return max(self.FLOOR * self.runs, self._grown(self._base, seconds))

    def _grown(self, base: float, seconds: float) -> float:
        flat = self.FLAT + self.FLAT_REQUESTS / base
        seconds /= max(1.0, self.HELD * self._held)
        step = self._gain * self.STEP / self.runs * (seconds + seconds**3 / (3.0 * flat * flat))
        return min(base + step, base * math.exp(min(50.0, self.MOST_GROWTH * seconds)), self.CEILING)

    def on_throttle(self, now: float, held: float = 0.0) -> None:
        """Slow down, unless the refused request had left before the rate was last lowered.

        `held` are the seconds in which nothing may be sent. The more a refusal costs, the more slowly the rate grows.
        """
        if now < self._deaf_until + self._latency:
            return
        self._before_fall = self.rate(now), now
        self._refusals += 1
        self._is_news = True
        rate = min(self.rate(now), 1.5 * self.runs * self.clocker.sent_per_second(now))
        deaf = self.DEAF
        accepted = self.clocker.accepted
        if self._phase is _Phase.STARTING:
            rate = min(rate, self.rate(now - self._latency))  # at which the refused request left
            self._at_first = accepted, rate
            rate, deaf = self._first(now, rate)
            self._phase = _Phase.MEASURING
        else:
            self.most = self._most(now)
            is_sharing = True
            measured = min(rate, self._measured_limit(now, rate)) if accepted >= self.MEASURED else rate
            if self._phase is _Phase.MEASURING:
                is_measured = self._is_measured(now)
                if is_measured:
                    measured = min(rate, self._measured_limit(now, rate))
                rate = measured * self.MARGIN if is_measured else rate * self._climb_fall()
                deaf = self.SETTLE
                is_sharing = is_measured or self.runs == 1
                self._known = self.CEILING
            else:
                is_known = accepted >= self.MEASURED
                self._note_measured(self.clocker.accepted_by_all_per_second(now) if is_known else None)
                if held:
                    self._gain = self.LEAST_GAIN
                fall = max(self.LEAST_FALL, self._gain * self.FALL / math.sqrt(accepted + 1.0))
                fall = min(self.MOST_FALL, fall)
                rate = (rate + (measured - rate) * self.MEASURED_SHARE) * (1.0 - fall)
            self._phase = _Phase.SHARING if is_sharing else _Phase.MEASURING
        self._base = max(self.FLOOR, rate)
        self._held = held
        self._since, self._deaf_until = now + held, now + deaf
        self.clocker.restart(now + held)

    def _measured_limit(self, now: float, rate: float) -> float:
        """The limit by the time between two refusals, when the limiter's bucket was empty.

        What was accepted tells it exactly, unless the bucket was full in between. Then the excess over the limit was
        the bucket, while the rate grew by `slope`.
        """
        accepted = self.clocker.accepted_by_all_per_second(now)
        is_climb = self._phase is _Phase.MEASURING and self.runs > 1
        if self._gain == 1.0 and not is_climb:
            return accepted
        burst = self._burst(accepted)
        slope = max(0.0, (self.rate(now) - self.rate(now - 0.1)) / 0.1)
        return max(accepted, rate - math.sqrt(2.0 * slope * burst))

    def _is_measured(self, now: float) -> bool:
        """Whether the time since the last refusal tells the limit. Each of several runs hears of a part of them."""
        clocker = self.clocker
        if self.runs == 1:
            return clocker.accepted >= self.MEASURED
        is_enough = clocker.accepted_by_all >= self.MEASURED and clocker.accepted >= self.MEASURED // 3
        return is_enough and clocker.seconds(now) >= self.LEAST_SECONDS

    def _climb_fall(self) -> float:
        return 1.0 - min(self.MOST_FALL, self.CLIMB_FALL * math.sqrt(self.runs))

    def _note_measured(self, measured: float | None) -> None:
        """Take smaller steps while a limit is measured again and again as the same: then nobody else is there."""
        earlier, self._measured = self._measured, measured
        is_same = measured is not None and earlier is not None and abs(measured / earlier - 1.0) < self.SAME
        self._gain = max(self.LEAST_GAIN, self.CALMER * self._gain) if is_same else 1.0

    def _first(self, now: float, rate: float) -> tuple[float, float]:
        if self.clocker.accepted_by_all < self.FEW:
            return self.FIRST * self.runs, self.SETTLE
        if self._known == self.CEILING or self.clocker.seconds(now) <= 1.0:
            return self.HALF * rate, self.DEAF
        self._known = self.CEILING
        return self.MARGIN * min(rate, self.clocker.accepted_by_all_per_second(now)), self.DEAF

    def _most(self, now: float) -> float | None:
        clocker = self.clocker
        if (
            self._phase is _Phase.STARTING
            or clocker.seconds(now) < self.LEAST_SECONDS
            or clocker.accepted < self.MEASURED
        ):
            return self.most
        found = clocker.accepted_per_second(now)
        if self._met:
            found = min(self.rate(now), found + sum(other.pace for other in self._met.values()))
        return max(self.most or 0.0, found)

    def learnt(self, now: float) -> tuple[float, float] | None:
        """The limit in requests per second, and the burst; None where there was no refusal to learn from."""
        most = self._most(now)
        if most is None:
            return None
        return most, self._burst(most)

    def _burst(self, limit: float) -> float:
        """What was let through above the limit while the rate doubled, up to the first refusal."""
        accepted, rate = self._at_first
        if not self._is_alone:
            return 1.0 + self.BURST_OF_RUNS * limit
        if rate <= limit:
            return 1.0
        above = rate - limit - limit * math.log(rate / limit)
        return max(1.0, min(float(accepted), self._doubling / math.log(2.0) * above))


class PeerRateCalculator(RateCalculator):
    """The same for a run that may see others.

    Its shares do not depend on refusals. So it can begin more gently, and is refused less.
    """

    START = 40.0
    DOUBLING = 0.5
    LATENCIES = 10.0
    HALF = 0.6
    FIRST = 5.0
    CLIMB_FALL = 0.12
    MARGIN = 0.95
    SETTLE = 0.25
