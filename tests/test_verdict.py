"""The verdict says what the numbers of a record allow, and no more."""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from scipy import stats

from made_record import made_record
from thalweg.racing import wording
from thalweg.racing.measures import Summary
from thalweg.racing.record import Certainty, Departure, Edge, Look, Record, Stop
from thalweg.racing.search import EXPLORED
from thalweg.racing.verdict import Verdict, verdict
from thalweg.recipes import Recipe

FIELD = {"sgd": 0.3, "momentum": 0.25, "adam": 0.1, "adamw": 0.1005, "lion": 0.2}


def summary(judged: Verdict, entrant: str) -> Summary:
    return next(one for one in judged.summaries if one.entrant == entrant)


def finals(record: Record, entrant: str) -> dict[int, float]:
    runs = (run for run in record.runs if run.round == "final" and run.entrant == entrant)
    return {run.seed: run.score for run in runs}


def raised(record: Record) -> Record:
    """The same race under a metric to raise: one minus the loss."""
    turned = [
        replace(
            run,
            score=1 - run.score,
            curve=tuple(replace(point, metric=1 - point.metric) for point in run.curve),
            test={name: 1 - value for name, value in run.test.items()},
        )
        for run in record.runs
    ]
    target = None if record.settings.target is None else 1 - record.settings.target
    settings = replace(record.settings, direction="max", target=target)
    return replace(record, settings=settings, runs=tuple(turned))


# The sentence


def test_one_left_is_the_best() -> None:
    judged = verdict(made_record({"sgd": 0.3, "adam": 0.1, "lion": 0.2}))
    assert judged.sentence.startswith("adam is the best of these 3 tuned recipes on digits")
    assert "under linear cooling to a hundredth" in judged.sentence
    assert judged.best == "adam"
    assert judged.shortlist == ("adam",)
    assert judged.advice == (f"Use adam (lr {summary(judged, 'adam').values['lr']:.4g}).",)


def test_a_few_left_cannot_be_told_apart_and_the_rest_are_worse() -> None:
    judged = verdict(made_record(FIELD))
    assert judged.sentence.startswith("adam and adamw cannot be distinguished; the rest are worse")
    assert judged.shortlist == ("adam", "adamw")
    assert judged.best in judged.shortlist


def test_nearly_all_left_is_no_clear_winner() -> None:
    judged = verdict(made_record(dict.fromkeys(FIELD, 0.1)))
    assert "no clear winner" in judged.sentence
    assert len(judged.shortlist) >= 4


def test_three_that_are_left_are_listed_in_words() -> None:
    losses = {"sgd": 0.1, "momentum": 0.1, "adam": 0.1, "lion": 0.4, "nadam": 0.4}
    record = made_record(losses, noise=0.0)
    assert verdict(record).sentence.startswith("sgd, momentum and adam cannot be distinguished;")


def test_an_unfinished_race_has_no_verdict() -> None:
    judged = verdict(made_record(FIELD, finished=False))
    assert "not finished" in judged.sentence
    assert judged.best is None
    assert judged.recipe is None
    assert all(one.test is None for one in judged.summaries)


def test_a_race_that_has_not_begun_has_no_verdict() -> None:
    record = made_record(FIELD, finished=False)
    judged = verdict(replace(record, runs=(), looks=(), chosen={}, costs={}))
    assert "0 runs" in judged.sentence
    assert "sgd" in str(judged)


def test_one_seed_tells_nobody_apart() -> None:
    judged = verdict(made_record({"sgd": 0.3, "adam": 0.1}, seeds=1))
    assert "no clear winner" in judged.sentence
    assert "over 1 seed," in judged.sentence
    assert any("1 seed cannot distinguish any two entrants" in line for line in judged.advice)
    assert summary(judged, "sgd").difference is not None
    assert "no bound yet" in str(judged)


def test_a_race_in_which_all_diverge_has_no_best() -> None:
    in_tuning = verdict(made_record({"sgd": 0.3, "adam": 0.1}, failing={"sgd": 1, "adam": 1}))
    assert "every configuration of every entrant diverged" in in_tuning.sentence
    in_final = verdict(made_record({"sgd": 0.3, "adam": 0.1}, failing={"sgd": 0.99, "adam": 0.99}))
    assert "most runs of each entrant diverged" in in_final.sentence
    assert in_tuning.best is in_final.best is None
    assert summary(in_final, "sgd").wins.count == 0
    assert str(in_final)


def test_direction_max_turns_every_sign_and_no_rank() -> None:
    record = made_record(FIELD, baseline="sgd", target=0.2, failing={"lion": 0.2})
    low, high = verdict(record), verdict(raised(record))
    assert [one.entrant for one in high.summaries] == [one.entrant for one in low.summaries]
    for ours, turned in zip(low.summaries, high.summaries, strict=True):
        assert turned.wins == ours.wins
        assert turned.to_target == ours.to_target
        assert ours.validation is not None
        assert turned.validation is not None
        assert turned.validation.low == pytest.approx(1 - ours.validation.high)
        if ours.difference and turned.difference:
            assert turned.difference.estimate == pytest.approx(-ours.difference.estimate)
            assert turned.difference.low == pytest.approx(-ours.difference.high)
    assert "lowers loss by" in low.sentence
    assert high.sentence == low.sentence.replace("lowers", "raises").replace(
        "lower is", "higher is"
    )
    assert high.advice == low.advice


# Its numbers


def test_median_and_its_interval_are_order_statistics() -> None:
    record = made_record(FIELD)
    found = summary(verdict(record), "adam").validation
    scores = np.sort(list(finals(record, "adam").values()))
    assert len(scores) == 40
    outside = int(stats.binom.ppf(0.025, 40, 0.5))
    assert found is not None
    assert found.estimate == pytest.approx(np.median(scores))
    assert (found.low, found.high) == (scores[outside - 1], scores[-outside])


def test_test_metric_is_read_from_the_runs() -> None:
    record = made_record(FIELD)
    found = summary(verdict(record), "adam").test
    scores = [r.test["loss"] for r in record.runs if r.round == "final" and r.entrant == "adam"]
    assert found is not None
    assert found.estimate == pytest.approx(np.median(scores))


def test_difference_is_hodges_lehmann_on_the_seeds_that_both_have() -> None:
    record = made_record(FIELD)
    judged = verdict(record)
    assert judged.best is not None
    worse, best = finals(record, "momentum"), finals(record, judged.best)
    assert len(worse) < len(best)
    gaps = [worse[seed] - best[seed] for seed in worse]
    averages = [(a + b) / 2 for a, b in itertools.combinations_with_replacement(gaps, 2)]
    found = summary(judged, "momentum").difference
    assert found is not None
    assert found.seeds == len(worse)
    assert found.estimate == pytest.approx(np.median(averages))


def test_interval_of_a_difference_agrees_with_the_test_of_its_look() -> None:
    record = made_record(FIELD)
    judged = verdict(record)
    for one in judged.summaries:
        if one.difference is None or judged.best is None:
            continue
        look = [look for look in record.looks if one.entrant in look.on][-1]
        ours, best = finals(record, one.entrant), finals(record, judged.best)
        gaps = [ours[seed] - best[seed] for seed in ours]
        p = stats.wilcoxon(gaps, alternative="greater", method="exact").pvalue
        assert one.difference.confidence == pytest.approx(1 - 2 * look.level)
        assert not one.difference.one_comparison
        assert (one.difference.low > 0) == (p <= look.level)
        assert not (one.shortlisted and one.difference.low > 0)


def test_interval_without_a_look_is_one_comparison_at_95_percent() -> None:
    judged = verdict(replace(made_record(FIELD), looks=()))
    differences = [one.difference for one in judged.summaries if one.difference]
    assert differences
    assert all(d.one_comparison and d.confidence == 0.95 for d in differences)
    assert "one comparison at 95" in " ".join(str(judged).split())


def test_wins_are_counted_on_the_seeds_that_all_have() -> None:
    record = made_record({"sgd": 0.101, "adam": 0.1, "lion": 0.12, "nadam": 0.3})
    scores = {name: finals(record, name) for name in record.settings.entrants}
    shared = sorted(scores["nadam"])
    assert len(shared) < len(scores["adam"])
    winners = [min(scores, key=lambda name, seed=seed: scores[name][seed]) for seed in shared]
    for one in verdict(record).summaries:
        assert (one.wins.count, one.wins.n) == (winners.count(one.entrant), len(shared))


def test_share_that_diverged_has_its_wilson_interval() -> None:
    record = made_record(FIELD, failing={"adamw": 0.2})
    found = summary(verdict(record), "adamw").diverged
    scores = list(finals(record, "adamw").values())
    count = sum(map(math.isnan, scores))
    assert count > 0
    assert found is not None
    assert (found.count, found.n) == (count, len(scores))
    expected = stats.binomtest(count, len(scores)).proportion_ci(method="wilson")
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high))


def test_an_entrant_that_mostly_diverges_is_worse_by_divergence() -> None:
    record = made_record({"sgd": 0.2, "adam": 0.1, "lion": 0.05}, failing={"lion": 0.8})
    judged = verdict(record)
    assert judged.best == "adam"
    found = summary(judged, "lion")
    assert found.validation is not None
    assert math.isnan(found.validation.estimate)
    assert found.difference is not None
    assert found.difference.estimate == math.inf


def test_steps_to_the_target_are_censored_at_the_budget() -> None:
    record = made_record(FIELD, target=0.104, failing={"adam": 0.1})
    judged = verdict(record)
    steps = []
    for run in record.runs:
        if run.round == "final" and run.entrant == "adam":
            reached = [point.step for point in run.curve if point.metric <= 0.104]
            steps.append(reached[0] if reached and run.diverged_step is None else math.inf)
    found, never = summary(judged, "adam").to_target, summary(judged, "sgd").to_target
    assert found is not None
    assert 0 < found.missed < found.n
    assert found.missed == sum(map(math.isinf, steps))
    assert found.median == np.median(steps)
    assert never is not None
    assert math.isnan(never.median)
    assert never.missed == never.n


def test_further_metrics_stand_beside_as_medians_of_the_runs_that_trained() -> None:
    record = made_record({"sgd": 0.2, "adam": 0.1}, failing={"adam": 0.2})
    final = [r for r in record.runs if r.round == "final" and r.entrant == "adam"]
    trained = [run for run in final if not math.isnan(run.score)]
    assert 0 < len(trained) < len(final)
    found = summary(verdict(record), "adam")
    assert found.also["accuracy"] == pytest.approx(np.median([1 - run.score for run in trained]))
    expected = np.median([run.test["accuracy"] for run in trained])
    assert found.test_also["accuracy"] == pytest.approx(expected)
    table = verdict(record).table()[0]
    assert table["validation_accuracy"] == found.also["accuracy"]
    assert table["test_accuracy"] == found.test_also["accuracy"]


def test_tunability_is_the_median_best_over_all_choices_of_what_was_explored() -> None:
    record = made_record({"sgd": 0.3, "adam": 0.1}, trials=24)
    firsts = {
        run.configuration: math.inf if math.isnan(run.score) else run.score
        for run in reversed(record.runs)
        if run.round == "tuning" and run.entrant == "adam" and run.configuration < EXPLORED
    }
    scores = list(firsts.values())
    curve = dict(verdict(record).tunability["adam"])
    assert list(curve) == [1, 2, 4, 8]
    for budget, score in curve.items():
        bests = [min(chosen) for chosen in itertools.combinations(scores, budget)]
        assert score == pytest.approx(np.median(bests))


def test_ties_in_the_median_are_broken_by_safety_then_by_memory_and_never_by_the_clock() -> None:
    record = made_record(dict.fromkeys(("sgd", "adam", "lion"), 0.1), noise=0.0)
    assert verdict(record).best == "sgd"  # the lightest of the factory
    faster = {**record.costs, "adam": replace(record.costs["adam"], step_seconds=1e-6)}
    assert verdict(replace(record, costs=faster)).best == "sgd"
    lighter = {**record.costs, "adam": replace(record.costs["adam"], state_per_parameter=-1.0)}
    record = replace(record, costs=lighter)
    assert verdict(record).best == "adam"
    first = next(run for run in record.runs if run.round == "final" and run.entrant == "adam")
    runs = [replace(run, score=math.nan) if run is first else run for run in record.runs]
    assert verdict(replace(record, runs=tuple(runs))).best == "sgd"


# Its advice


def test_with_a_baseline_the_first_sentence_says_what_changing_gains() -> None:
    judged = verdict(made_record(FIELD, baseline="sgd"))
    found = summary(judged, "sgd").difference
    assert found is not None
    assert judged.sentence.startswith(
        f"Changing from sgd to {judged.best} lowers loss by {found.estimate:.3g} "
        f"({found.low:.3g} to {found.high:.3g}; "
    )


def test_a_baseline_that_is_still_on_gains_nothing_by_a_change() -> None:
    judged = verdict(made_record(FIELD, baseline="adam"))
    assert judged.best == "adamw"
    assert judged.sentence.startswith(
        "Changing from adam to adamw gains nothing that can be measured: loss differs by "
    )
    assert judged.advice[0].startswith("Keep adam, or try adamw (lr ")


def test_a_baseline_that_wins_is_kept() -> None:
    judged = verdict(made_record(FIELD | {"adamw": 0.2}, baseline="adam"))
    assert judged.sentence.startswith(
        "Changing from adam gains nothing that can be measured. adam is"
    )
    assert judged.advice == ("Keep adam.",)


def test_a_baseline_that_diverged_in_tuning_is_said_to_have() -> None:
    judged = verdict(made_record(FIELD, baseline="sgd", failing={"sgd": 1}))
    assert judged.sentence.startswith(
        "The recipe that you use now, sgd, diverged in the tuning round. "
    )
    assert summary(judged, "sgd").seeds == 0
    assert judged.summaries[-1].entrant == "sgd"


def test_of_a_few_left_the_cheaper_and_the_safer_are_named() -> None:
    record = made_record({"adamw": 0.1, "adam": 0.1, "sgd": 0.3}, failing={"adam": 0.02})
    judged = verdict(record)
    other = next(name for name in judged.shortlist if name != judged.best)
    about = next(line for line in judged.advice if line.startswith(f"{other} is "))
    own, its = record.costs[other], record.costs[str(judged.best)]
    assert ("cheaper" in about) == (own.step_seconds_high <= 0.9 * its.step_seconds_low)
    safe = {one.entrant: one.diverged.count for one in judged.summaries if one.diverged}
    assert ("safer" in about) == (safe[other] < safe[str(judged.best)])


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((0.9e-3, 1.1e-3), "cheaper (0.9 to 1.1 ms a step against 1.8 to 2.2 ms)"),
        ((0.9e-3, 1.7e-3), ""),  # less than a tenth may lie between them
        ((0.9e-3, 2.0e-3), ""),
    ],
)
def test_an_entrant_is_called_cheaper_where_the_intervals_of_the_steps_say_so(
    ends: tuple[float, float], said: str
) -> None:
    record = made_record({"sgd": 0.1, "adam": 0.1}, noise=0.0)
    low, high = ends
    adam = replace(record.costs["adam"], step_seconds=1e-3, step_seconds_low=low)
    adam = replace(adam, step_seconds_high=high)
    sgd = replace(record.costs["sgd"], step_seconds=2e-3, step_seconds_low=1.8e-3)
    sgd = replace(sgd, step_seconds_high=2.2e-3)
    judged = verdict(replace(record, costs={"sgd": sgd, "adam": adam}))
    assert judged.best == "sgd"
    assert ("cheaper" in " ".join(judged.advice)) == bool(said)
    assert said in " ".join(judged.advice)


@pytest.mark.parametrize("constant", [-0.1, -5.0, 1e3])
def test_a_constant_added_to_the_metric_changes_no_sentence(constant: float) -> None:
    record = made_record(FIELD, baseline="sgd", failing={"momentum": 0.2})
    runs = [replace(run, score=run.score + constant) for run in record.runs]
    plain, moved = verdict(record), verdict(replace(record, runs=tuple(runs)))
    assert moved.sentence == plain.sentence
    assert moved.advice == plain.advice
    assert moved.shortlist == plain.shortlist


def test_of_a_few_left_the_seeds_that_would_part_them_are_named() -> None:
    judged = verdict(made_record(FIELD))
    assert "more seed" in judged.advice[-1] or "is open" in judged.advice[-1]


def test_what_is_lighter_or_simpler_but_less_safe_is_said_to_be_so() -> None:
    record = made_record({"sgd": 0.103, "adam": 0.1}, failing={"sgd": 0.2}, seeds=12)
    judged = verdict(record)
    assert (judged.best, judged.shortlist) == ("adam", ("sgd", "adam"))
    count = sum(map(math.isnan, finals(record, "sgd").values()))
    assert count > 0
    about = next(line for line in judged.advice if line.startswith("sgd is "))
    assert about.endswith(f", but {count} of its 12 seeds diverged, against 0.")


def test_a_best_that_diverges_on_some_seeds_is_said_to() -> None:
    record = made_record({"sgd": 0.3, "adam": 0.1}, failing={"adam": 0.1})
    judged = verdict(record)
    found = summary(judged, "adam").diverged
    assert found is not None
    assert judged.best == "adam"
    assert found.count > 0
    assert f"{found.count} of {found.n} seeds of adam diverged." in judged.advice


def test_a_tuned_cooling_is_named_beside_the_lr() -> None:
    record = made_record({"sgd": 0.3, "adam": 0.1})
    judged = verdict(replace(record, settings=replace(record.settings, cooling="tune")))
    assert judged.advice[0].endswith(", cooling linear).")
    assert judged.table()[0]["cooling"] == "linear"


def test_a_baseline_that_another_than_the_best_beat_is_told_which() -> None:
    """The best by its median is too noisy to beat the baseline; a steady one does."""
    record = made_record(dict.fromkeys(("base", "steady", "noisy"), 0.1), seeds=12, baseline="base")
    scores = {"base": [1.0] * 12, "steady": [0.9] * 12, "noisy": [0.5] * 7 + [2.0] * 5}
    runs = [
        replace(run, score=scores[run.entrant][run.seed]) if run.round == "final" else run
        for run in record.runs
    ]
    look = Look(12, 0.005, tuple(scores), (Departure("base", "steady", 2.0**-12),))
    judged = verdict(replace(record, runs=tuple(runs), looks=(look,)))
    assert judged.best == "noisy"
    assert judged.sentence.startswith("Changing from base to steady lowers loss by 0.1 ")
    assert "noisy cannot be distinguished; the rest are worse" in judged.sentence


def test_a_test_score_that_is_no_number_is_not_called_diverged() -> None:
    record = made_record(FIELD, failing={"lion": 0.6})
    runs = [replace(run, test=run.test and {"loss": math.nan}) for run in record.runs]
    rows = verdict(replace(record, runs=tuple(runs))).summaries
    told = {row.entrant: wording.test_score(row) for row in rows}
    assert told.pop("lion") == "diverged"
    assert set(told.values()) == {"not a number"}


# What tuning alone gains


def credited(losses: dict[str, float], **more: Any) -> Record:
    """A race whose baseline is `used`, and `adam` the same tuned."""
    record = made_record(losses, baseline="used", **more)
    return replace(record, settings=replace(record.settings, baseline_tuned="adam"))


def hodges_lehmann(record: Record, entrant: str, other: str) -> float:
    own, its = finals(record, entrant), finals(record, other)
    gaps = [own[seed] - its[seed] for seed in own.keys() & its.keys()]
    averages = [(a + b) / 2 for a, b in itertools.combinations_with_replacement(gaps, 2)]
    return float(np.median(averages))


NUMBER = r"([\d.e-]+)"
BOTH = re.compile(
    rf"^Changing from used to nadam (lower|raise)s loss by {NUMBER} \({NUMBER} to {NUMBER}; 99.*?"
    rf" 12 seeds\): {NUMBER} of it \({NUMBER} to {NUMBER}\) by tuning alone,"
    rf" and {NUMBER} \({NUMBER} to {NUMBER}; 9.*? seeds\) by changing from adam to nadam\. nadam is"
)


@pytest.mark.parametrize("direction", ["min", "max"])
@pytest.mark.parametrize("adam", [0.4, 0.13, 0.11])
def test_a_gain_is_parted_and_its_parts_add_up(
    adam: float, direction: Literal["min", "max"]
) -> None:
    losses = {"used": 0.9, "adam": adam, "nadam": 0.1, "sgd": 0.5}
    record = credited(losses, direction=direction)
    judged = verdict(record)
    found = BOTH.match(judged.sentence)
    assert found, judged.sentence
    assert found[1] == {"min": "lower", "max": "raise"}[direction]
    whole, *_, by_tuning, low, high, by_change, near, far = map(float, found.groups()[1:])
    assert whole == pytest.approx(abs(hodges_lehmann(record, "used", "nadam")), rel=5e-3)
    assert by_change == pytest.approx(abs(hodges_lehmann(record, "adam", "nadam")), rel=5e-3)
    assert f"{by_tuning + by_change:.3g}" == f"{whole:.3g}"
    assert low <= by_tuning <= high
    assert near <= by_change <= far
    told = summary(judged, "adam").difference
    assert told is not None
    assert sorted(map(abs, (told.low, told.high))) == pytest.approx([near, far], rel=5e-3)


def test_where_the_baseline_tuned_is_the_best_tuning_gains_all() -> None:
    judged = verdict(credited({"used": 0.9, "adam": 0.1, "nadam": 0.2}))
    assert re.match(
        r"Changing from used to adam lowers loss by [^:]*, all of it by tuning alone\. adam is",
        judged.sentence,
    )
    assert judged.advice[0].startswith("Use adam (lr ")


def test_where_a_change_gains_nothing_beside_tuning_the_family_is_kept_and_tuned() -> None:
    judged = verdict(credited({"used": 0.9, "adam": 0.1003, "nadam": 0.1, "sgd": 0.5}))
    assert (judged.best, set(judged.shortlist)) == ("nadam", {"adam", "nadam"})
    told = (
        r"lowers loss by [^:]*, all that can be measured of it by tuning alone: adam differs from"
        r" nadam by \S+ \(-\S+ to \+\S+\), .*, 40 seeds\."
    )
    assert re.match(f"Changing from used to nadam {told}", judged.sentence)
    assert re.match(
        r"Use adam \(lr [\d.]+\), which is used after tuning, or try nadam \(lr [\d.]+\): of the"
        r" shortlist",
        judged.advice[0],
    )


def test_tuning_alone_that_gains_nothing_is_given_no_part() -> None:
    judged = verdict(credited({"used": 0.9, "adam": 0.9, "nadam": 0.1, "sgd": 0.5}))
    assert re.match(
        r"Changing from used to nadam lowers loss by [^:]*, and tuning alone gains nothing that can"
        r" be measured: used differs from adam by \S+ \(-.* to \+",
        judged.sentence,
    )
    assert judged.advice[0].startswith("Use nadam (lr ")


def test_parts_that_are_too_small_to_be_seen_are_not_told() -> None:
    judged = verdict(credited({"used": 0.106, "adam": 0.105, "nadam": 0.1}))
    assert ", and it cannot be measured how much of it is by tuning alone. " in judged.sentence


def test_a_baseline_that_is_not_beaten_has_no_gain_to_part() -> None:
    best = verdict(credited({"used": 0.1, "adam": 0.2, "nadam": 0.3}))
    assert best.sentence.startswith(
        "Changing from used gains nothing that can be measured. used is"
    )
    few = verdict(credited({"used": 0.9, "adam": 0.2, "nadam": 0.1}, seeds=4))
    assert few.sentence.startswith(
        "Changing from used to nadam gains nothing that can be measured:"
    )
    assert "tuning alone" not in best.sentence + few.sentence


@pytest.mark.parametrize(
    ("failing", "told"),
    [
        (
            {"adam": 1},
            r"lowers loss by [^:]*; the gain by tuning alone is not known, because adam diverged in"
            r" the tuning round\. nadam",
        ),
        (
            {"adam": 0.95},
            r"lowers loss by [^:]*, and tuning alone gains nothing that can be measured: used"
            r" differs from adam by runs that diverged, ",
        ),
        (
            {"used": 0.95},
            r"gains runs that do not diverge, and so does tuning alone\. Changing from adam to"
            r" nadam lowers loss by 0\.\d+ \(",
        ),
        (
            {"used": 0.95, "adam": 0.95},
            r"gains runs that do not diverge, and tuning alone gains nothing that can be"
            r" measured: ",
        ),
    ],
    ids=["never in the final", "mostly", "the baseline", "both"],
)
def test_parts_of_a_gain_where_runs_diverge(failing: dict[str, float], told: str) -> None:
    losses = {"used": 0.9, "adam": 0.2, "nadam": 0.1, "sgd": 0.5}
    sentence = verdict(credited(losses, failing=failing)).sentence
    assert re.match(f"Changing from used to nadam {told}", sentence), sentence


def test_parts_that_contradict_each_other_get_no_numbers() -> None:
    """The two that are left lie far apart only on the seeds that the baseline did not run."""
    record = credited({"used": 0.9, "adam": 0.2, "nadam": 0.1})
    assert "of it (" in verdict(record).sentence
    first = {run.seed for run in record.runs if run.entrant == "used" and run.round == "final"}
    base = made_record({"adam": 0.1, "nadam": 0.1})
    later = [
        replace(run, score=run.score + 0.5)
        if run.entrant == "adam" and run.seed not in first
        else run
        for run in base.runs
        if run.round == "final" and run.entrant != "used"
    ]
    used = [run for run in record.runs if run.round == "final" and run.entrant == "used"]
    looks = (
        Look(12, 1e-3, ("used", "adam", "nadam"), (Departure("used", "nadam", 1e-4),)),
        Look(40, 1e-3, ("adam", "nadam"), (Departure("adam", "nadam", 1e-4),)),
    )
    tuning = [run for run in record.runs if run.round == "tuning"]
    record = replace(record, runs=(*tuning, *used, *later), looks=looks)
    assert ", a part of it by tuning alone and a part by changing from adam to nadam. " in (
        verdict(record).sentence
    )


def test_limits_say_what_tuning_alone_is() -> None:
    record = credited({"used": 0.9, "adam": 0.2, "nadam": 0.1})
    line = "The gain by tuning alone is the gain of adam over used"
    for cooled, end in ((("adam",), ", which includes the common cooling."), ((), ".")):
        settings = replace(record.settings, cooled=cooled)
        assert line + end in verdict(replace(record, settings=settings)).limits
    assert "tuning alone" not in " ".join(verdict(made_record(FIELD, baseline="sgd")).limits)


# Where it stops


def test_limits_name_the_task_the_budget_the_cooling_and_the_tuning() -> None:
    limits = " ".join(verdict(made_record(FIELD, trials=5)).limits)
    for words in (
        "digits",
        "400 steps",
        "linear cooling",
        "Each entrant was tried with 5 configurations, spread over 5 seeds, and the best 3 again on"
        " 4 further seeds;",
        "40 seeds",
        "5",
    ):
        assert words in limits


@pytest.mark.parametrize(
    ("trials", "tuning_seeds", "words"),
    [
        (1, 4, "tried with 1 configuration on one seed;"),
        (2, 4, "2 configurations, spread over 2 seeds, and the best 2 again on 2 further seeds;"),
        (6, 1, "tried with 6 configurations, and the best 3 again on 1 further seed;"),
    ],
)
def test_the_smallest_tuning_is_told_as_it_was(trials: int, tuning_seeds: int, words: str) -> None:
    limits = verdict(made_record(FIELD, trials=trials, tuning_seeds=tuning_seeds)).limits
    assert words in " ".join(limits)


def test_who_got_no_further_configurations_is_told_and_why() -> None:
    stops = [Stop("momentum", 12, 0.031), Stop("sgd", 8, 0.0), Stop("lion", 12, 0.004)]
    limits = verdict(made_record(FIELD, stops=stops)).limits
    (tried,) = [line for line in limits if "was tried with" in line]
    assert tried.startswith("Each entrant was tried with 8 to 24 configurations, spread over 8")
    (stopped,) = [line for line in limits if line.startswith("No further configurations")]
    assert stopped == (
        "No further configurations were tried of sgd after 8, of momentum and lion after 12: the"
        " probability that one would come close to the best result by then was below"
        f" 5{wording.PERCENT}."
    )
    assert not any("No further" in line for line in verdict(made_record(FIELD)).limits)


def test_who_was_tried_again_is_told_where_tuning_was_added() -> None:
    record = made_record(FIELD)
    again = "and the best 3 again on 4 further seeds"
    (first,) = [line for line in verdict(record).limits if again in line]
    assert f"{again};" in first
    added = replace(record, settings=replace(record.settings, earlier=(12,)))
    (tried,) = [line for line in verdict(added).limits if again in line]
    assert f"{again}, each time after the search had ended;" in tried


def test_a_value_at_the_edge_of_its_space_is_named() -> None:
    record = made_record(FIELD, edges=[Edge("sgd", "lr", 2.9, 1e-3, 3.0)])
    found = [line for line in verdict(record).limits if "edge" in line]
    assert found == [
        "The best lr of sgd, 2.9, lies at the edge of its search space 0.001 to 3: "
        "widen it and race again."
    ]


def test_a_value_that_is_a_hair_beyond_its_space_is_told_as_beyond_it() -> None:
    record = made_record(FIELD)
    chosen = ("sgd", record.chosen["sgd"])
    beyond = [
        replace(one, values={"lr": 1.00004}) if one.key == chosen else one
        for one in record.configurations
    ]
    told = " ".join(verdict(replace(record, configurations=tuple(beyond))).limits)
    assert "The best lr of sgd, 1.00004, lies beyond its search space 0.0001 to 1, which" in told


def test_an_entrant_that_never_trained_is_named() -> None:
    judged = verdict(made_record(FIELD, failing={"lion": 1}))
    assert any(line.startswith("lion diverged with every") for line in judged.limits)
    assert summary(judged, "lion").validation is None
    (cells,) = [line.split() for line in str(judged).splitlines() if line.startswith(" lion")]
    assert cells[1:6] == ["—", "—", "—", "—", "24"]


def test_notes_of_the_record_are_passed_on() -> None:
    note = "members ran one by one: the model has an nn.LSTM."
    assert note in verdict(replace(made_record(FIELD), notes=(note,))).limits


def test_test_data_that_point_the_other_way_are_told_and_do_not_choose() -> None:
    record = made_record(FIELD)
    best = verdict(record).best
    (other,) = {"adam", "adamw"} - {str(best)}
    told = "favour another entrant"
    assert told not in " ".join(verdict(record).limits)
    for name, says in ((other, True), ("lion", False)):  # lion has left the shortlist
        runs = [
            replace(run, test={"loss": 0.01 * run.score}) if run.entrant == name else run
            for run in record.runs
        ]
        judged = verdict(replace(record, runs=tuple(runs)))
        assert judged.best == best
        assert (told in " ".join(judged.limits)) == says


# As it is handed out


def test_recipe_is_the_chosen_one_of_the_best() -> None:
    record = made_record(FIELD)
    judged = verdict(record)
    assert judged.recipe is not None
    lr = Recipe.from_toml(judged.recipe).settings["lr"]
    assert lr.start == summary(judged, "adamw").values["lr"]
    assert judged.in_torch
    assert f"torch.optim.AdamW(\n    model.parameters(), lr={lr.start!r}" in str(judged.torch)


def test_a_winner_that_pytorch_has_not_says_so() -> None:
    judged = verdict(made_record({"sgd": 0.3, "lion": 0.1}))
    assert not judged.in_torch
    assert judged.torch == "torch.optim has no Lion."


def test_text_fits_a_terminal_and_shows_every_entrant() -> None:
    names = {**FIELD, "delta-bar-delta": 0.4, "[bold]name[/bold]": 0.5, "lion": 0.2}
    record = made_record(names, baseline="sgd", target=0.2, failing={"momentum": 0.3, "lion": 1})
    text = str(verdict(record))
    assert max(map(len, text.splitlines())) <= 100
    assert all(name in text for name in names)
    ran = [record.costs[name] for name in record.chosen]
    ends = [(1e3 * cost.step_seconds_low, 1e3 * cost.step_seconds_high) for cost in ran]
    assert all(f"{low:.3g}-{high:.3g}" in text for low, high in ends)


def test_table_is_flat() -> None:
    record = made_record(FIELD, target=0.2)
    judged = verdict(record)
    table = judged.table()
    assert [one["entrant"] for one in table] == [one.entrant for one in judged.summaries]
    assert all(
        value is None or isinstance(value, str | bool | int | float)
        for one in table
        for value in one.values()
    )
    assert {"validation", "test_low", "difference_high", "wins", "lr"} <= table[0].keys()
    out = {one["entrant"]: (one["out_at_seeds"], one["beaten_by"]) for one in table}
    assert out == dict.fromkeys(FIELD, (None, None)) | {
        departure.entrant: (look.seeds, departure.by)
        for look in record.looks
        for departure in look.left
    }


def test_json_holds_the_table_and_numbers_that_all_readers_take() -> None:
    record = made_record(FIELD, target=1e-9, failing={"sgd": 1, "momentum": 0.9}, seeds=5)
    judged = verdict(record)
    told = json.loads(judged.to_json(), parse_constant=lambda name: pytest.fail(name))
    assert told["sentence"] == judged.sentence
    assert told["best"] == judged.best
    for row, flat in zip(told["entrants"], judged.table(), strict=True):
        assert row.keys() == flat.keys()
        for name, value in flat.items():
            finite = not isinstance(value, float) or math.isfinite(value)
            assert row[name] == (value if finite else None)


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.05, "5"), (0.025, "2.5"), (0.95, "95"), (0.975, "97.5"), (0.99987, "99.987"), (0, "0")],
)
def test_a_share_keeps_what_tells_it_from_none_and_all(share: float, text: str) -> None:
    assert wording.percent(share) == f"{text}\u00a0%"


def test_no_column_of_the_printed_table_is_cut_off() -> None:
    """Numbers as wide as they come, beside a name as long as a column takes."""
    losses = {"an-entrant (baseline)": 1.2341e-6, "nadam": 2.3452e-6}
    record = made_record(losses, noise=1e-8, target=1.3e-6, seeds=12)
    ends = {"step_seconds_low": 1.234, "step_seconds_high": 1.345}
    costs = {name: replace(cost, **ends) for name, cost in record.costs.items()}
    text = str(verdict(replace(record, costs=costs)))
    assert text.count("1230-1340") == 2 or text.count("1230-1350") == 2
    assert "a step" in text
    assert max(map(len, text.splitlines())) <= 100


def test_no_number_of_the_printed_table_is_broken() -> None:
    losses = {"sgd (baseline)": 6.713, "momentum": 5.1856e-7, "nesterov": 2.5182e-4}
    record = made_record(losses, noise=1e-9, target=1e-9)
    record = replace(record, settings=replace(record.settings, metric="mean squared error"))
    costs = {
        name: replace(cost, step_seconds_low=2.663e-4, step_seconds_high=3.081e-4)
        for name, cost in record.costs.items()
    }
    judged = verdict(replace(record, costs=costs))
    lines = str(judged).splitlines()
    for name in losses:
        (cells,) = [line for line in lines if line.startswith(f" {name}")]
        validation = summary(judged, name).validation
        assert validation is not None
        assert wording.number(validation.estimate) in cells
        assert "0.266-0.308" in cells
    assert max(map(len, lines)) <= 100


def test_that_the_baseline_may_be_best_untuned_opens_no_question_of_optimizers() -> None:
    unsure = [Certainty("adam", 0.6, 0.5), Certainty("adam (baseline)", 0.4, 0.5)]
    record = made_record(
        {"adam": 0.1, "adam (baseline)": 0.11}, certainties=unsure, baseline="adam (baseline)"
    )
    said = verdict(record).sentence
    assert (
        "It is open which entrant is best: with other tuning draws adam or adam (baseline)" in said
    )
    assert "Which optimizer" not in said


def test_where_the_family_is_open_the_verdict_names_the_command_that_adds_trials() -> None:
    unsure = [Certainty("sgd", 0.4, 0.5), Certainty("adam", 0.6, 0.5)]
    record = made_record({"sgd": 0.1, "adam": 0.1}, certainties=unsure)
    command = "`thalweg race digits --resume digits --trials 48`"
    assert f"More trials may decide it: {command} adds them." in verdict(record).sentence
    elsewhere = replace(record, folder=Path("my runs/first"))
    command = "`thalweg race digits --resume first --trials 48 --runs 'my runs'`"
    assert f"More trials may decide it: {command} adds them." in verdict(elsewhere).sentence
    called = replace(record, command="thalweg.race(<Task digits>, entrants=['sgd', 'adam'])")
    command = "`thalweg.race(<Task digits>, resume='digits', trials=48)`"
    assert f"More trials may decide it: {command} adds them." in verdict(called).sentence
    most = replace(record, settings=replace(record.settings, trials=501))
    assert verdict(most).sentence.endswith("of 10 races.")
