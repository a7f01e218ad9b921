"""The statistics of comparisons: arrays in, numbers out.

Scores are one array for each entrant, with one number for each seed. The same index in two arrays
is the same seed, so runs are paired. A score that is not finite means that the run diverged: it
counts as worse than every run that did not, and two runs that diverged are equal. All methods here
use ranks, which allow this; means would not.

Infinities and underflow are allowed here, whatever a task has told NumPy to do with them.

This file has, in this order: the exact signed-rank test; a comparison of two entrants with the
interval that inverts the test; a comparison of two whose runs share no seeds; the looks of a race
and the error that each may spend; the shortlist; the lead that a race can detect; and estimates for
one entrant alone.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from thalweg.errors import UserError

Direction: TypeAlias = Literal["min", "max"]
Floats: TypeAlias = NDArray[np.float64]

POWER = 0.8
"""The probability to detect a difference, for which seeds and margins are planned."""

EFFICIENCY = 3 / math.pi
"""The efficiency of signed ranks under normal noise: means would need this share of the seeds."""

SMALLEST = sys.float_info.min
"""The end of an interval that reaches to zero but excludes it. It is the smallest normal number,
because some libraries let the processor treat smaller numbers as zero."""


# The signed-rank test


@dataclass(frozen=True)
class SignedRanks:
    """Wilcoxon's signed-rank test of differences.

    p_positive: the one-sided p-value for differences above zero. p_negative: the one for
    differences below zero.
    """

    p_positive: float
    p_negative: float


@np.errstate(all="ignore")
def signed_ranks(differences: ArrayLike) -> SignedRanks:
    """The exact signed-rank test, which allows ties, zeros and infinities.

    With r_i the mid-rank of |d_i| among all |d|, W = sum of r_i over the positive d_i. Zeros are
    ranked with the rest and then dropped (Pratt 1959). If the differences are symmetric around
    zero, all 2^m signs of the m differences that are not zero are equally likely for given ranks.
    So p_positive = P(sum of r_i s_i >= W), where each s_i is 0 or 1 with probability 1/2. It is
    counted exactly, not sampled. If all differences are zero, both p are 1.

    differences: `[n]`, in any unit; infinite ones are tied for the largest rank.
    Raises `UserError` for an empty array and for a difference that is not a number.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or np.isnan(values).any():
        raise UserError("differences must be an array [n] of one or more numbers, without nan.")
    return _signed_ranks(values)


def _signed_ranks(differences: Floats) -> SignedRanks:
    ranks = _doubled_ranks(np.abs(differences))
    tail = _upper_tail(tuple(np.sort(ranks[differences != 0]).tolist()))
    above = int(ranks[differences > 0].sum())
    below = int(ranks[differences < 0].sum())
    return SignedRanks(float(tail[above]), float(tail[below]))


def _doubled_ranks(sizes: Floats) -> NDArray[np.int64]:
    """Twice the mid-ranks, which are whole numbers: the numbers that are less, plus those that are
    not greater, plus 1.
    """
    ascending = np.sort(sizes)
    less = np.searchsorted(ascending, sizes, side="left")
    not_greater = np.searchsorted(ascending, sizes, side="right")
    return less + not_greater + 1


@lru_cache(maxsize=4096)
def _upper_tail(ranks: tuple[int, ...]) -> Floats:
    """P(S >= s) for s = 0 ... sum of ranks; S sums the ranks that a fair coin selects."""
    chance = np.zeros(sum(ranks) + 1)
    chance[0] = 1.0
    reach = 1
    for rank in ranks:
        half = 0.5 * chance[:reach]
        reach += rank
        chance[: len(half)] = half
        chance[rank:reach] += half
    return np.cumsum(chance[::-1])[::-1]


# Two entrants


@dataclass(frozen=True)
class Comparison:
    """How much better one entrant is than another, over paired seeds.

    estimate: the gain, in units of the metric. It is positive if the first entrant is better, so
    for
        a loss it is the other's minus its own; infinite if one mostly diverges and the other does
        not.
    low, high: the interval of the gain at `confidence`. An end is infinite if there are too few
        seeds, or if divergence decides.
    p, p_worse: the one-sided p-values that the first is better, and that it is worse.
    level: the one-sided level of both; confidence = 1 - 2 level.
    n: the number of pairs. wins, ties: the shares of the pairs in [0, 1] that the first won, and
        that were equal.

    `low > 0` is equivalent to `p <= level`, and `high < 0` to `p_worse <= level`.
    """

    estimate: float
    low: float
    high: float
    p: float
    p_worse: float
    level: float
    n: int
    wins: float
    ties: float

    @property
    def confidence(self) -> float:
        return 1 - 2 * self.level

    @property
    def better(self) -> bool:
        """Whether the first is better at this level."""
        return self.p <= self.level

    @property
    def worse(self) -> bool:
        """Whether the first is worse at this level."""
        return self.p_worse <= self.level


@np.errstate(all="ignore")
def compare(a: ArrayLike, b: ArrayLike, direction: Direction, level: float = 0.025) -> Comparison:
    """Compares entrant `a` with entrant `b` by the signed ranks of their differences.

    The estimate is Hodges and Lehmann's (1963): the median of the Walsh averages
    (d_i + d_j) / 2, i <= j. The interval holds the shifts t for which the exact test of d - t
    rejects on neither side. The result of the test can change only where t passes a Walsh average,
    so the ends are found among these. With ties, p is not exactly monotone in t; the end is then
    chosen so that it agrees with the test of d itself about zero.

    a, b: `[n]`, scores on the same seeds. direction: whether "min" or "max" is better.
    level: one-sided, in (0, 0.5); the interval has confidence 1 - 2 level.
    Raises `UserError` for scores that are not paired, and for a level or direction out of range.
    """
    _require_between("level", level, 0, 0.5)
    gains = _gains(a, b, direction)
    test = _signed_ranks(gains)
    averages = _walsh_averages(gains)
    low = _lower_end(gains, averages, level, test.p_positive)
    high = -_lower_end(-gains, -averages[::-1], level, test.p_negative)
    return Comparison(
        estimate=min(max(_median(averages), low), high),
        low=low,
        high=high + 0.0,  # no minus zero
        p=test.p_positive,
        p_worse=test.p_negative,
        level=level,
        n=gains.size,
        wins=float(np.mean(gains > 0)),
        ties=float(np.mean(gains == 0)),
    )


def compare_all(
    scores: Mapping[str, ArrayLike], reference: str, direction: Direction, level: float = 0.025
) -> dict[str, Comparison]:
    """Compares each other entrant with `reference`, on the first seeds, which both have.

    Gains are positive if the entrant is better than the reference.

    scores: by entrant, `[n]`, where n may differ. Raises as `compare` does, and for an unknown
    reference.
    """
    if reference not in scores:
        raise UserError(f"'{reference}' has no scores; choose one of {', '.join(scores)}.")
    against = np.asarray(scores[reference], dtype=np.float64)
    found = {}
    for name, values in scores.items():
        if name != reference:
            own = np.asarray(values, dtype=np.float64)
            shared = min(len(own), len(against))
            found[name] = compare(own[:shared], against[:shared], direction, level)
    return found


def _gains(a: ArrayLike, b: ArrayLike, direction: Direction) -> Floats:
    """By how much `a` is better on each seed; infinite if one diverged, zero if both did."""
    first, second = _goodness(a, direction), _goodness(b, direction)
    if first.size != second.size:
        raise UserError(
            f"Paired scores need the same seeds, not {first.size} against {second.size}."
        )
    both_diverged = np.isinf(first) & np.isinf(second)
    return _without_round_off(np.where(both_diverged, 0.0, first - second))


def _goodness(scores: ArrayLike, direction: Direction) -> Floats:
    """Scores so that more is better, minus infinity for runs that diverged."""
    if direction not in ("min", "max"):
        raise UserError(f"The direction must be 'min' or 'max', not {direction!r}.")
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise UserError(
            f"Scores must be an array [n] of one or more numbers, not of shape {values.shape}."
        )
    return np.where(np.isfinite(values), values if direction == "max" else -values, -np.inf)


def _without_round_off(differences: Floats) -> Floats:
    """Keeps 32 bits of each, so that differences of accuracies tie if the exact ones tie."""
    mantissa, exponent = np.frexp(differences)
    kept: Floats = np.ldexp(np.round(np.ldexp(mantissa, 32)), exponent - 32)
    return kept


def _walsh_averages(differences: Floats) -> Floats:
    """(d_i + d_j) / 2 for i <= j in rising order.

    The average of opposite infinities is left out, because it is no number.
    """
    half = differences / 2
    first, second = _pairs(half.size)
    averages = np.sort(half[first] + half[second])
    return averages[~np.isnan(averages)]


@lru_cache(maxsize=64)
def _pairs(n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.triu_indices(n)


def _lower_end(differences: Floats, averages: Floats, level: float, p_at_zero: float) -> float:
    """The smallest shift that the test of `differences - shift > 0` does not reject."""
    corners = np.unique(np.append(averages[np.isfinite(averages)], 0.0))
    # Shift k lies just to the left of corner k; the last shift lies to the right of all corners.
    shifts = np.empty(corners.size + 1)
    shifts[0] = min(np.nextafter(corners[0], -np.inf), -SMALLEST)
    shifts[1:-1] = corners[:-1] / 2 + corners[1:] / 2
    shifts[-1] = max(np.nextafter(corners[-1], np.inf), SMALLEST)

    def accepted(k: int) -> bool:
        return _signed_ranks(differences - shifts[k]).p_positive > level

    zero = int(np.searchsorted(corners, 0.0))
    if p_at_zero > level:
        if accepted(0):
            return -math.inf
        return float(corners[bisect_left(range(zero + 1), True, lo=1, key=accepted) - 1])
    if not accepted(corners.size):
        return math.inf
    first = bisect_left(range(corners.size), True, lo=zero + 1, key=accepted)
    return max(float(corners[first - 1]), SMALLEST)


def _median(ascending: Floats) -> float:
    """The median of numbers in rising order; between opposite infinities it is zero."""
    low, high = ascending[(ascending.size - 1) // 2], ascending[ascending.size // 2]
    return 0.0 if low == -high else float(low / 2 + high / 2)


@np.errstate(all="ignore")
def within_margin(
    a: ArrayLike, b: ArrayLike, direction: Direction, margin: float, level: float
) -> bool:
    """Whether `a` and `b` differ by less than `margin`, in units of the metric, either way.

    The signed-rank test of the differences plus the margin must show that they lie above zero, and
    that of the differences minus the margin that they lie below: two one-sided tests (Schuirmann
    1987), both at `level`, of which only one can be wrong.
    Raises as `compare` does.
    """
    _require_between("level", level, 0, 0.5)
    gains = _gains(a, b, direction)
    above = _signed_ranks(gains + margin).p_positive
    below = _signed_ranks(gains - margin).p_negative
    return max(above, below) <= level


# Two entrants without pairs

MOST_UNPAIRED = 100
"""Scores of one entrant for which the exact rank-sum test takes less than a second."""


@np.errstate(all="ignore")
def compare_unpaired(
    a: ArrayLike, b: ArrayLike, direction: Direction, level: float = 0.025
) -> Comparison:
    """Compares entrants whose runs share no seeds, by the exact rank-sum test (Wilcoxon 1945).

    The estimate is the median of all differences a_i - b_j, and the interval lies between two of
    these, in rising order (Moses 1965); with ties it is on the safe side. `n` is the number of
    scores of both, and `wins` and `ties` are shares of all differences.

    a: [m], b: [n] scores, up to 100 each. Raises as `compare` does, and for more scores.
    """
    _require_between("level", level, 0, 0.5)
    first, second = _goodness(a, direction), _goodness(b, direction)
    if max(first.size, second.size) > MOST_UNPAIRED:
        raise UserError(f"Runs without pairs can be {MOST_UNPAIRED} of each at most.")
    both_diverged = np.isinf(first)[:, None] & np.isinf(second)
    gains = np.where(both_diverged, 0.0, first[:, None] - second).ravel()
    gains = np.sort(_without_round_off(gains))
    below = np.cumsum(_rank_sum_chances(first.size, second.size))
    outside = int(np.searchsorted(below, level, side="right"))
    return Comparison(
        estimate=_median(gains),
        low=float(gains[outside - 1]) if outside else -math.inf,
        high=float(gains[-outside]) if outside else math.inf,
        p=float(below[np.count_nonzero(gains <= 0)]),
        p_worse=float(below[np.count_nonzero(gains >= 0)]),
        level=level,
        n=first.size + second.size,
        wins=float(np.mean(gains > 0)),
        ties=float(np.mean(gains == 0)),
    )


def _rank_sum_chances(m: int, n: int) -> Floats:
    """P(U = u) for u = 0 ... m n: U of the m n pairs of two samples alike have the first ahead."""
    # chances[k, u]: k of the scores so far are of the first sample, each ahead of all of the second
    # that came before it.
    chances = np.zeros((m + 1, m * n + 1))
    chances[0, 0] = 1.0
    for seen in range(m + n):
        before, chances = chances, np.zeros_like(chances)
        for k in range(max(0, seen - n), min(m, seen) + 1):
            rest = seen - k
            left_first, left_second = m - k, n - rest
            share = left_first / (left_first + left_second)
            chances[k] += before[k] * (1 - share)
            if k < m:
                chances[k + 1, rest:] += before[k, : m * n + 1 - rest] * share
    found: Floats = chances[m]
    return found


# The looks of a race

LOOKS_IN_THOUSANDTHS = (300, 450, 675, 1000)
"""The looks of a race, in thousandths of its seeds."""


def looks(seeds: int) -> tuple[int, ...]:
    """The numbers of seeds at which a race of at most `seeds` has its looks, in rising order.

    They are 0.3, 0.45, 0.675 and 1 times `seeds`, rounded up, without repeats. For 40 they are 12,
    18, 27 and 40.
    """
    _require_count("seeds", seeds)
    return tuple(sorted({-(-seeds * part // 1000) for part in LOOKS_IN_THOUSANDTHS}))


def error_spent(n: int, seeds: int, alpha: float) -> float:
    """The error that is spent after n of at most `seeds` seeds: (alpha / 2) (n / seeds)^1.5.

    alpha: in (0, 1), the risk that the best entrant is missing from the shortlist.
    Source: the power family of Kim and DeMets 1987.
    """
    _require_between("alpha", alpha, 0, 1)
    return alpha / 2 * math.pow(n / seeds, 1.5)


def level_at(n: int, seeds: int, alpha: float) -> float:
    """The error a_n that the look at n seeds may spend: the growth of `error_spent` since the last.

    Raises `UserError` if there is no look at n.
    """
    planned = looks(seeds)
    if n not in planned:
        raise UserError(f"A race of {seeds} seeds has looks at {planned} seeds, not at {n}.")
    before = max((look for look in planned if look < n), default=0)
    return error_spent(n, seeds, alpha) - error_spent(before, seeds, alpha)


def pair_level(level: float, entrants: int) -> float:
    """The one-sided level of each pair at a look: a_n / (m - 1) with m entrants on the shortlist.

    The intervals of the verdict have this level too: `compare(..., level=pair_level)` never
    excludes zero for two entrants that stay on the shortlist. Raises `UserError` for m < 2.
    """
    if entrants < 2:
        raise UserError(f"A comparison needs two entrants or more, not {entrants}.")
    return level / (entrants - 1)


# The shortlist


@dataclass(frozen=True)
class Departure:
    """An entrant that leaves the shortlist, the entrant that is better with the least p, and p."""

    name: str
    beaten_by: str
    p: float


@dataclass(frozen=True)
class Shortlist:
    """The entrants that stay after a look, in the given order, and those that leave.

    level: the one-sided level of each pair.
    """

    remaining: tuple[str, ...]
    departures: tuple[Departure, ...]
    level: float


@np.errstate(all="ignore")
def shortlist(
    scores: Mapping[str, ArrayLike], alive: Sequence[str], level: float, direction: Direction
) -> Shortlist:
    """The shortlist after a look.

    An entrant leaves if another one on the shortlist before this look is better at the one-sided
    level a_n / (m - 1), m = len(alive). All pairs are judged at once: an entrant that leaves now
    can still beat another. If each were beaten by another one, in a circle, all would stay.

    scores: by entrant, `[n]` on the same n seeds; those not in `alive` are not used.
    level: a_n, the error that this look may spend (`level_at`).
    Raises `UserError` as `compare` does, and for a name in `alive` without scores.
    """
    if missing := [name for name in alive if name not in scores]:
        raise UserError(f"'{missing[0]}' has no scores; a shortlist needs scores of all entrants.")
    if len(alive) < 2:
        return Shortlist(tuple(alive), (), level)
    threshold = pair_level(level, len(alive))
    rivals = {name: _best_rival(name, scores, alive, direction) for name in alive}
    departures = tuple(rival for rival in rivals.values() if rival.p <= threshold)
    if len(departures) == len(alive):
        departures = ()
    gone = {departure.name for departure in departures}
    return Shortlist(tuple(name for name in alive if name not in gone), departures, threshold)


def _best_rival(
    name: str, scores: Mapping[str, ArrayLike], alive: Sequence[str], direction: Direction
) -> Departure:
    p_of = {
        rival: _signed_ranks(_gains(scores[rival], scores[name], direction)).p_positive
        for rival in alive
        if rival != name
    }
    best = min(p_of, key=p_of.__getitem__)
    return Departure(name, best, p_of[best])


# What a race can detect


@np.errstate(all="ignore")
def more_seeds_needed(a: ArrayLike, b: ArrayLike, direction: Direction, level: float) -> int | None:
    """About how many more paired seeds would distinguish `a` and `b`; 0 if none are needed.

    Noether's (1987) approximation: with q the share of the averages (d_i + d_j) / 2, i < j, that
    are positive (a half for those equal to zero), the signed-rank test reaches one-sided `level`
    with power 0.8 after about n = (z_level + z_power)^2 / (3 (q - 1/2)^2) pairs. Under normal noise
    q - 1/2 is close to the standardised difference (mean / standard deviation) over sqrt(pi), if
    that is small. Unlike it, q is also defined with runs that diverged. The estimate assumes that
    the scores so far are representative.

    None if the sign of the difference is not known: if |q - 1/2| is below 1 / sqrt(3 n), its
    standard error for equal entrants, and for a single pair.
    Raises `UserError` as `compare` does.
    """
    _require_between("level", level, 0, 0.5)
    gains = _gains(a, b, direction)
    test = _signed_ranks(gains)
    if min(test.p_positive, test.p_negative) <= level:
        return 0
    if gains.size < 2:
        return None
    excess = _share_of_positive_averages(gains) - 0.5
    if 3 * gains.size * excess**2 < 1:
        return None
    quantiles = float(special.ndtri(POWER) - special.ndtri(level))
    needed = quantiles**2 / (3 * excess**2)
    return max(1, math.ceil(needed) - gains.size)


def _share_of_positive_averages(differences: Floats) -> float:
    first, second = np.triu_indices(differences.size, k=1)
    averages = differences[first] / 2 + differences[second] / 2
    positive, negative = np.mean(averages > 0), np.mean(averages < 0)
    return float(0.5 + (positive - negative) / 2)


@np.errstate(all="ignore")
def visible_margin(seeds: int, entrants: int, alpha: float) -> float:
    """The lead that a race can detect at its last look, in standard deviations of the difference.

    It is the lead over one rival, divided by the standard deviation of the paired difference, that
    the last look detects with power 0.8 at its level a_n / (m - 1) if all m entrants are on the
    shortlist: (t_level + t_power) / sqrt(n 3 / pi), for normal noise. Here 3 / pi is the efficiency
    of signed ranks, and the t are upper quantiles of Student's t with n - 1 degrees of freedom.
    (With quantiles of the normal distribution the power would be 0.73, not 0.8, with 40 seeds at
    level 0.001.) It is infinite if even n wins in n pairs, p = 2^-n, do not reach the level.

    Raises `UserError` for fewer than two entrants, no seeds, and alpha outside (0, 1).
    """
    level = pair_level(level_at(seeds, seeds, alpha), entrants)
    if seeds < _fewest_seeds(level):
        return math.inf
    at_power, at_level = special.stdtrit(seeds - 1, (POWER, level))
    return float(at_power - at_level) / math.sqrt(seeds * EFFICIENCY)


def _fewest_seeds(level: float) -> int:
    """The least n with 2^-n <= level."""
    return math.ceil(-math.log2(max(level, SMALLEST)))


# One entrant alone


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval, whose ends may be infinite."""

    estimate: float
    low: float
    high: float


@np.errstate(all="ignore")
def wilson(count: int, n: int, confidence: float = 0.95) -> Interval:
    """The share count / n with its Wilson score interval (Wilson 1927), all in [0, 1].

    Raises `UserError` unless 0 <= count <= n and n > 0.
    """
    _require_count("n", n)
    _require_between("confidence", confidence, 0, 1)
    if not 0 <= count <= n:
        raise UserError(f"A count out of {n} must lie between 0 and {n}, not {count}.")
    from scipy import stats  # takes a while to import, and few need it

    ends = stats.binomtest(count, n).proportion_ci(confidence, method="wilson")
    return Interval(count / n, float(ends.low), float(ends.high))


@np.errstate(all="ignore")
def median_interval(scores: ArrayLike, direction: Direction, confidence: float = 0.95) -> Interval:
    """The median score and its interval between order statistics, whatever the distribution.

    [x_(k), x_(n+1-k)] with the greatest k for which P(Binomial(n, 1/2) < k) <=
    (1 - confidence) / 2. Runs that diverged come last in the order: a median among them is nan, and
    an end among them is infinite on the worse side. Both ends are infinite if there are too few
    scores for the confidence (fewer than 6 at 95 %).

    Raises `UserError` for an empty array, and for a direction or confidence out of range.
    """
    _require_between("confidence", confidence, 0, 1)
    goodness = np.sort(_goodness(scores, direction))
    median = _as_score(_median(goodness), direction)
    outside = _order_statistics_outside(goodness.size, confidence)
    if outside == 0:
        return Interval(median, -math.inf, math.inf)
    ends = float(goodness[outside - 1]), float(goodness[-outside])
    low, high = ends if direction == "max" else (-ends[1], -ends[0])
    return Interval(median, low, high)


def _order_statistics_outside(n: int, confidence: float) -> int:
    """The greatest k with P(Binomial(n, 1/2) < k) <= (1 - confidence) / 2; it is at least 0."""
    below = special.bdtr(np.arange(n // 2 + 1), n, 0.5)
    return int(np.searchsorted(below, (1 - confidence) / 2, side="right"))


@np.errstate(all="ignore")
def tunability(scores: ArrayLike, budgets: Sequence[int], direction: Direction) -> dict[int, float]:
    """The tunability curve: for each budget b, the median best score of b configurations.

    Of the N configurations that were run, b are drawn without replacement: the i-th best of N is
    the best of them with probability C(N - i, b - 1) / C(N, b), so that the best is among the top i
    with probability 1 - C(N - i, b) / C(N, b). The result is the median of that distribution, and
    not its mean, because some configurations may have diverged; it is nan if the median diverged.
    These are tuning scores, so they are optimistic.

    scores: `[N]`, one for each configuration. budgets: each in 1 ... N.
    Raises `UserError` for a budget out of range and as `compare` does.
    Sources: Dodge et al. 2019; Tang et al. 2020.
    """
    best_first = np.sort(_goodness(scores, direction))[::-1]
    for budget in budgets:
        if not 1 <= budget <= best_first.size:
            raise UserError(
                f"A budget must lie between 1 and the {best_first.size} configurations that were"
                f" run, not {budget}."
            )
    return {b: _as_score(_median_best(best_first, b), direction) for b in budgets}


def _median_best(best_first: Floats, budget: int) -> float:
    total = best_first.size
    draws = math.comb(total, budget)
    for top in range(1, total + 1):
        draws_below_top = math.comb(total - top, budget)
        if 2 * draws_below_top == draws:
            return float(best_first[top - 1] / 2 + best_first[top] / 2)
        if 2 * draws_below_top < draws:
            break
    return float(best_first[top - 1])


def _as_score(goodness: float, direction: Direction) -> float:
    """The inverse of `_goodness`: a score in the metric's units; nan for a run that diverged."""
    if math.isinf(goodness):
        return math.nan
    return goodness if direction == "max" else 0.0 - goodness  # no minus zero


def _require_between(name: str, value: float, low: float, high: float) -> None:
    if not low < value < high:
        raise UserError(f"{name} must be above {low} and below {high}, not {value}.")


def _require_count(name: str, value: int) -> None:
    if not isinstance(value, Integral) or value < 1:
        raise UserError(f"{name} must be a whole number above 0, not {value}.")
