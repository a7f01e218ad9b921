"""The tests and intervals that a verdict rests on, against enumeration, SciPy and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from thalweg import statistics
from thalweg.errors import UserError

ALPHA = 0.05

small_levels = st.sampled_from([0.001, 0.01, 0.025, 0.1, 0.2])
tied_scores = st.integers(-3, 3).map(float)
rough_scores = st.floats(-1e6, 1e6, width=32)
diverged = st.sampled_from([math.nan, math.inf, -math.inf])


def paired(
    score: st.SearchStrategy[float], most: int = 14
) -> st.SearchStrategy[NDArray[np.float64]]:
    """Two rows of scores on the same seeds."""
    pairs = st.lists(st.tuples(score, score), min_size=1, max_size=most)
    return pairs.map(lambda rows: np.array(rows, dtype=np.float64).T)


def enumerated_p(differences: list[float]) -> tuple[float, float]:
    """Both one-sided p from the definition: every choice of signs, Pratt's zeros."""
    values = np.array(differences)
    ranks = stats.rankdata(np.abs(values))[values != 0]
    signs = np.array(list(itertools.product([0, 1], repeat=len(ranks))))
    sums = signs @ ranks
    positive = sums >= ranks[values[values != 0] > 0].sum()
    negative = sums >= ranks[values[values != 0] < 0].sum()
    return float(positive.mean()), float(negative.mean())


# The signed-rank test


@pytest.mark.parametrize("n", [1, 2, 5, 12, 30, 50])
def test_untied_p_equals_scipys_exact_p(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.3, 1, size=n)
    found = statistics.signed_ranks(differences)
    for p, alternative in ((found.p_positive, "greater"), (found.p_negative, "less")):
        expected = stats.wilcoxon(differences, alternative=alternative, method="exact").pvalue
        assert p == pytest.approx(expected, rel=1e-12)


@settings(max_examples=150)
@given(
    st.lists(
        st.integers(-3, 3).map(float) | st.sampled_from([math.inf, -math.inf]),
        min_size=1,
        max_size=10,
    )
)
def test_p_with_ties_zeros_and_infinities_equals_enumeration(differences: list[float]) -> None:
    found = statistics.signed_ranks(differences)
    assert (found.p_positive, found.p_negative) == pytest.approx(enumerated_p(differences))


def test_smallest_p_of_forty_is_exact_and_not_floored_by_sampling() -> None:
    assert statistics.signed_ranks(np.arange(1.0, 41.0)).p_positive == 2.0**-40


def test_only_ties_are_no_evidence() -> None:
    assert statistics.signed_ranks(np.zeros(40)) == statistics.SignedRanks(1.0, 1.0)


# Two entrants


@settings(max_examples=300)
@given(paired(tied_scores | diverged) | paired(rough_scores | diverged), small_levels)
def test_interval_and_test_never_disagree(scores: NDArray[np.float64], level: float) -> None:
    found = statistics.compare(scores[0], scores[1], "min", level)
    assert (found.low > 0) == found.better == (found.p <= level)
    assert (found.high < 0) == found.worse == (found.p_worse <= level)
    assert found.low <= found.estimate <= found.high


def test_interval_leaves_zero_out_where_many_ties_end_it_there() -> None:
    gains = np.array([0.0] * 30 + [1.0] * 10)
    found = statistics.compare(gains, np.zeros(40), "max")
    assert found.p == 2.0**-10
    assert 0 < found.low < 1e-300


@pytest.mark.parametrize("n", [5, 8, 9, 12])
@pytest.mark.parametrize("level", [0.01, 0.05, 0.2])
def test_interval_holds_the_shifts_that_the_test_does_not_reject(n: int, level: float) -> None:
    gains = np.random.default_rng(n).standard_cauchy(n)
    found = statistics.compare(gains, np.zeros(n), "max", level)
    averages = np.unique(np.add.outer(gains, gains) / 2)
    between = (averages[1:] + averages[:-1]) / 2
    for shift in [averages[0] - 1, *between, averages[-1] + 1]:
        p = min(scipys_p(gains - shift), scipys_p(shift - gains))
        assert (found.low < shift < found.high) == (p > level)


def scipys_p(differences: NDArray[np.float64]) -> float:
    return float(stats.wilcoxon(differences, alternative="greater", method="exact").pvalue)


@settings(max_examples=100)
@given(paired(tied_scores | diverged), small_levels)
def test_swapping_entrants_mirrors_the_comparison(
    scores: NDArray[np.float64], level: float
) -> None:
    one = statistics.compare(scores[0], scores[1], "min", level)
    other = statistics.compare(scores[1], scores[0], "min", level)
    assert (one.low, one.high, one.estimate) == (-other.high, -other.low, -other.estimate)
    assert (one.p, one.p_worse) == (other.p_worse, other.p)


def test_estimate_is_the_median_of_walsh_averages_and_gain_is_positive() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 15), rng.normal(2, 1, 15)
    averages = [(x + y) / 2 for x, y in itertools.combinations_with_replacement(b - a, 2)]
    found = statistics.compare(a, b, "min")
    assert found.estimate == pytest.approx(np.median(averages), rel=1e-8)
    assert found.better and found.estimate > 0
    assert statistics.compare(a, b, "max").estimate == -found.estimate


def test_wins_ties_and_pairs_are_counted() -> None:
    found = statistics.compare([1, 2, 3, math.nan], [2, 2, 1, math.inf], "min")
    assert (found.n, found.wins, found.ties) == (4, 0.25, 0.5)


def test_five_seeds_cannot_reach_95_percent_and_six_can() -> None:
    few = statistics.compare(np.arange(1.0, 6.0), np.zeros(5), "max")
    assert (few.low, few.high) == (-math.inf, math.inf)
    enough = statistics.compare(np.arange(1.0, 7.0), np.zeros(6), "max")
    assert (enough.low, enough.high) == (1, 6)
    assert enough.confidence == 0.95


def test_divergence_counts_as_worse_than_any_score() -> None:
    a = np.linspace(5, 6, 12)
    b = a.copy()
    b[:11] = math.nan
    found = statistics.compare(a, b, "min")
    assert found.better
    assert found.estimate == found.low == math.inf
    assert statistics.compare(b, a, "max").worse


@pytest.mark.filterwarnings("error")
def test_scores_at_the_edge_of_float64_are_compared_without_a_warning() -> None:
    most = np.finfo(np.float64).max
    found = statistics.compare([most, 1, most, 0], [-most, most, 1, 0], "max")
    assert (found.wins, found.ties) == (0.5, 0.25)


def test_both_diverging_on_a_seed_is_a_tie() -> None:
    scores = np.full(10, math.nan)
    found = statistics.compare(scores, np.full(10, math.inf), "min")
    assert (found.estimate, found.p, found.p_worse, found.ties) == (0, 1, 1, 1)


def test_accuracies_tie_in_spite_of_round_off() -> None:
    a, b = np.array([0.3, 0.8, 0.1]), np.array([0.2, 0.7, 0.2])
    assert len(set(np.abs(a - b))) == 3
    found = statistics.compare(a, b, "max")
    assert found.p == enumerated_p([1, 1, -1])[0] == 0.5


@pytest.mark.parametrize("noise", ["normal", "cauchy"])
def test_interval_covers_what_it_promises(noise: str) -> None:
    draws = getattr(np.random.default_rng(2), f"standard_{noise}")((600, 10))
    found = [statistics.compare(gains + 3, np.zeros(10), "max") for gains in draws]
    assert np.mean([each.low <= 3 <= each.high for each in found]) >= 0.935


def test_entrants_are_compared_on_the_seeds_that_both_have() -> None:
    scores = {"a": np.arange(12.0), "b": np.arange(12.0)[:7] + 1, "c": np.arange(12.0) - 1}
    found = statistics.compare_all(scores, "a", "min")
    assert {name: each.n for name, each in found.items()} == {"b": 7, "c": 12}
    assert found["b"].estimate == -1 and found["c"].estimate == 1


# The looks


def test_looks_of_forty_seeds() -> None:
    assert statistics.looks(40) == (12, 18, 27, 40)


@pytest.mark.parametrize("seeds", range(1, 101))
def test_looks_rise_to_the_last_seed(seeds: int) -> None:
    planned = statistics.looks(seeds)
    assert planned[-1] == seeds and planned[0] >= 1
    assert list(planned) == sorted(set(planned))
    parts = {math.ceil(round(part * seeds, 9)) for part in (0.3, 0.45, 0.675, 1)}
    assert set(planned) == parts


@pytest.mark.parametrize("seeds", [1, 7, 10, 40])
def test_the_looks_spend_half_of_alpha_in_all(seeds: int) -> None:
    levels = [statistics.level_at(n, seeds, ALPHA) for n in statistics.looks(seeds)]
    assert min(levels) > 0
    assert sum(levels) == pytest.approx(ALPHA / 2)


def test_error_spent_follows_the_power_family() -> None:
    assert statistics.error_spent(10, 40, 0.1) == pytest.approx(0.05 / 8)
    first = statistics.level_at(12, 40, ALPHA)
    assert first == pytest.approx(0.025 * 0.3**1.5)
    assert statistics.level_at(18, 40, ALPHA) == pytest.approx(0.025 * 0.45**1.5 - first)


# The shortlist


def race(scores: NDArray[np.float64], alpha: float) -> tuple[str, ...]:
    """Who is on the shortlist at the end; scores: [entrants, seeds], more is better."""
    seeds = scores.shape[1]
    alive = tuple(map(str, range(len(scores))))
    for n in statistics.looks(seeds):
        so_far = {name: scores[int(name), :n] for name in alive}
        level = statistics.level_at(n, seeds, alpha)
        alive = statistics.shortlist(so_far, alive, level, "max").remaining
    return alive


@pytest.mark.parametrize("entrants", [2, 5])
def test_best_entrant_is_rarely_missing_from_the_shortlist(entrants: int) -> None:
    races, alpha = 400, 0.2
    noise = np.random.default_rng(3).normal(size=(races, entrants, 40))
    missing = sum("0" not in race(scores, alpha) for scores in noise)
    assert missing <= alpha * races


def test_a_clear_lead_leaves_one_on_the_shortlist() -> None:
    noise = np.random.default_rng(4).normal(size=(30, 6, 40))
    noise[:, 0] += 2
    winners = [race(scores, ALPHA) for scores in noise]
    assert winners == [("0",)] * 30


def test_ten_of_forty_seeds_can_remove_no_one_of_twelve() -> None:
    level = statistics.error_spent(10, 40, ALPHA)
    scores = {str(k): np.arange(10.0) + 100 * k for k in range(12)}
    assert statistics.shortlist(scores, list(scores), level, "min").departures == ()


def test_all_pairs_are_judged_at_once() -> None:
    steps = np.arange(12.0)
    scores = {"worst": steps + 2, "middle": steps + 1, "best": steps}
    found = statistics.shortlist(scores, ["worst", "middle", "best"], 0.01, "min")
    assert found.remaining == ("best",)
    assert found.level == 0.005
    beaten_by = {each.name: each.beaten_by for each in found.departures}
    assert beaten_by["middle"] == "best" and beaten_by["worst"] in ("middle", "best")
    assert {each.p for each in found.departures} == {2.0**-12}


def test_the_level_is_shared_among_the_rivals_still_on() -> None:
    lead = np.arange(1.0, 9.0)
    scores = {"a": lead, "b": np.zeros(8), "c": np.zeros(8), "gone": lead + 1}
    level = 2.0**-8
    assert statistics.shortlist(scores, ["a", "b"], level, "max").remaining == ("a",)
    assert statistics.shortlist(scores, ["a", "b", "c"], level, "max").departures == ()
    assert statistics.shortlist(scores, ["a", "b", "c"], 2 * level, "max").remaining == ("a",)


def test_intervals_at_the_level_of_a_pair_agree_with_the_shortlist() -> None:
    scores = np.random.default_rng(5).normal(size=(8, 18)) + np.linspace(0, 2, 8)[:, None]
    named = {str(k): row for k, row in enumerate(scores)}
    found = statistics.shortlist(named, list(named), 0.02, "max")
    assert 0 < len(found.departures) < 7
    for name in named:
        others = statistics.compare_all(named, name, "max", found.level)
        assert (name in found.remaining) == all(each.low <= 0 for each in others.values())


def test_entrants_that_beat_each_other_in_a_circle_all_stay() -> None:
    a, b, c = np.tile([[0.0, 0, 2], [1, 1, 0], [2, -1, 1]], 30)
    scores = {"a": a, "b": b, "c": c}
    found = statistics.shortlist(scores, ["a", "b", "c"], 0.48, "max")
    wins = [statistics.compare(x, y, "max", found.level) for x, y in ((a, b), (b, c), (c, a))]
    assert all(each.better for each in wins)
    assert found.remaining == ("a", "b", "c")


def test_the_last_one_stays() -> None:
    assert statistics.shortlist({"a": [1.0]}, ["a"], 0.01, "min").remaining == ("a",)


# What a race can see


def share_separated(margin: float, n: int, level: float) -> float:
    gains = np.random.default_rng(6).normal(margin, 1, size=(1000, n))
    return float(np.mean([statistics.signed_ranks(row).p_positive <= level for row in gains]))


def test_visible_margin_is_seen_in_four_races_of_five() -> None:
    level = statistics.level_at(40, 40, ALPHA) / 11
    margin = statistics.visible_margin(40, 12, ALPHA)
    assert share_separated(margin, 40, level) == pytest.approx(0.8, abs=0.04)


def test_too_few_seeds_see_no_margin() -> None:
    assert statistics.visible_margin(10, 12, ALPHA) == math.inf
    assert statistics.visible_margin(11, 12, ALPHA) < math.inf
    assert statistics.level_at(11, 11, ALPHA) / 11 > 2.0**-11


def test_that_many_more_seeds_separate_four_times_of_five() -> None:
    level, margin = 0.001, 0.5
    gains = stats.norm.ppf((np.arange(20) + 0.5) / 20) + margin
    more = statistics.more_seeds_needed(gains, np.zeros(20), "max", level)
    assert more is not None
    assert share_separated(margin, 20 + more, level) == pytest.approx(0.8, abs=0.08)
    assert statistics.more_seeds_needed(gains, np.zeros(20), "min", level) == more


def test_no_more_seeds_for_two_that_are_separate() -> None:
    assert statistics.more_seeds_needed(np.ones(12), np.zeros(12), "min", 0.001) == 0


def test_no_number_of_seeds_where_the_sign_is_open() -> None:
    even = np.array([-1.0, 1, -2, 2, -3, 3.1])
    assert statistics.more_seeds_needed(even, np.zeros(6), "max", 0.01) is None
    assert statistics.more_seeds_needed([1.0], [2.0], "max", 0.01) is None


# One entrant alone


def test_wilson_equals_its_formula() -> None:
    k, n, z = 3, 40, stats.norm.ppf(0.975)
    centre = (k + z**2 / 2) / (n + z**2)
    half = z * math.sqrt(k * (n - k) / n + z**2 / 4) / (n + z**2)
    found = statistics.wilson(k, n)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half))
    assert found.estimate == 3 / 40
    assert statistics.wilson(0, 40).low == 0


@pytest.mark.parametrize("n", range(1, 30))
def test_median_interval_is_the_narrowest_that_keeps_its_confidence(n: int) -> None:
    found = statistics.median_interval(np.arange(1.0, n + 1), "max")
    assert found.estimate == (n + 1) / 2
    outside = [2 * sum(math.comb(n, j) for j in range(k)) / 2**n for k in range(1, n // 2 + 1)]
    k = sum(chance <= 0.05 for chance in outside)
    expected = (k, n + 1 - k) if k else (-math.inf, math.inf)
    assert (found.low, found.high) == expected


def test_median_interval_has_no_bounds_with_five_scores() -> None:
    found = statistics.median_interval([1, 2, 3, 4, 5], "min")
    assert found == statistics.Interval(3, -math.inf, math.inf)


def test_median_interval_ends_at_infinity_on_the_worse_side() -> None:
    scores = [math.nan, math.inf, 1, 2, 3, 4, 5, 6, 7, 8]
    assert statistics.median_interval(scores, "min") == statistics.Interval(5.5, 2, math.inf)
    assert statistics.median_interval(scores, "max") == statistics.Interval(3.5, -math.inf, 7)


def test_median_of_mostly_diverged_runs_is_not_a_number() -> None:
    assert math.isnan(statistics.median_interval([math.nan] * 6 + [1.0] * 4, "min").estimate)


@settings(max_examples=60)
@given(
    st.lists(st.integers(-5, 5).map(float) | diverged, min_size=1, max_size=8),
    st.sampled_from(["min", "max"]),
)
def test_tunability_equals_the_median_over_all_subsets(
    scores: list[float], direction: statistics.Direction
) -> None:
    budgets = range(1, len(scores) + 1)
    found = statistics.tunability(scores, budgets, direction)
    best, worst = (min, math.inf) if direction == "min" else (max, -math.inf)
    ordered = [score if math.isfinite(score) else worst for score in scores]
    for budget in budgets:
        bests = [best(subset) for subset in itertools.combinations(ordered, budget)]
        expected = np.median(bests)
        assert found[budget] == pytest.approx(
            expected if math.isfinite(expected) else math.nan, nan_ok=True
        )


def test_tunability_starts_at_the_median_and_ends_at_the_best() -> None:
    scores = np.random.default_rng(7).normal(size=16)
    found = statistics.tunability(scores, [1, 2, 4, 8, 16], "min")
    assert found[1] == pytest.approx(np.median(scores))
    assert found[16] == scores.min()
    assert list(found.values()) == sorted(found.values(), reverse=True)


# Bad input


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: statistics.signed_ranks([1, math.nan]), "nan"),
        (lambda: statistics.signed_ranks([]), "one or more"),
        (lambda: statistics.compare([1, 2], [1], "min"), "2 against 1"),
        (lambda: statistics.compare([], [], "min"), "one or more"),
        (lambda: statistics.compare([1], [1], "lower"), "'lower'"),
        (lambda: statistics.compare([1], [1], "min", 0.5), "level"),
        (lambda: statistics.compare_all({"a": [1]}, "b", "min"), "'b'"),
        (lambda: statistics.looks(0), "seeds"),
        (lambda: statistics.level_at(13, 40, 0.05), "not at 13"),
        (lambda: statistics.error_spent(10, 40, 1.5), "alpha"),
        (lambda: statistics.visible_margin(40, 1, 0.05), "two entrants"),
        (lambda: statistics.shortlist({"a": [1]}, ["a", "b"], 0.01, "min"), "'b'"),
        (lambda: statistics.wilson(5, 4), "between 0 and 4"),
        (lambda: statistics.median_interval([1], "min", 95), "confidence"),
        (lambda: statistics.tunability([1, 2], [3], "min"), "not 3"),
    ],
)
def test_bad_input_is_named(call, named: str) -> None:
    with pytest.raises(UserError, match=named):
        call()
