"""How sure tuning is, on races that are simulated."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from test_search import Losses, Simulated, bowl, named
from thalweg import recipes
from thalweg.racing.certainty import certainties
from thalweg.racing.entrants import Entrant
from thalweg.racing.record import Certainty, Record, RunRecord


def finished(done: Simulated, losses: Losses = bowl) -> Record:
    """With a final round in which nobody leaves."""
    chosen = {one.name: 0 for one in done.search.field.values()}
    chosen |= done.search.chosen(done.record)
    runs = [
        RunRecord("final", name, index, seed, losses(name, values, seed), None, None, ())
        for name, index in chosen.items()
        for values in [done.values(name)[index]]
        for seed in done.search.seeds.final
    ]
    record = done.record
    return replace(record, runs=(*record.runs, *runs), chosen=chosen, finished=True)


def raced(field: list[Entrant], losses: Losses = bowl, **more: object) -> dict[str, Certainty]:
    found = certainties(finished(Simulated(field, losses, **{"seeds": 12} | more), losses))
    return {one.entrant: one for one in found}


def shifted(**by: float) -> Losses:
    """The bowl, raised for some entrants."""
    return lambda name, values, seed: bowl(name, values, seed) + by.get(name, 0)


def test_chances_to_be_named_add_up_and_the_best_is_never_ahead_of_itself() -> None:
    found = raced(named("a", "b", "c"))
    assert sum(one.named for one in found.values()) == pytest.approx(1)
    assert min(one.ahead for one in found.values()) == 0


def test_one_that_is_far_ahead_is_named_again_and_no_other_gets_ahead_by_more_tuning() -> None:
    found = raced(named("a", "b"), shifted(b=0.5))
    assert found["a"].named > 0.95
    assert found["b"].ahead < 0.05


def test_of_two_that_are_alike_neither_is_sure_to_be_named_again() -> None:
    found = raced(named("a", "b"))
    assert max(one.named for one in found.values()) < 0.85
    assert max(one.ahead for one in found.values()) > 0.1


def test_a_short_search_is_less_sure_than_a_long_one() -> None:
    def narrow(name: str, values: Mapping[str, float], seed: int) -> float:
        far = math.log10(values["lr"] / 0.003) ** 2
        return 1 - 0.8 * math.exp(-4 * far) + 0.001 * bowl(name, values, seed) + LEAD[name]

    def surest(trials: int) -> float:
        found = [raced(named("a", "b"), narrow, trials=trials, seed=seed) for seed in range(3)]
        return float(np.mean([max(one.named for one in each.values()) for each in found]))

    assert surest(4) < surest(32)


LEAD = {"a": 0.0, "b": 0.02}


def test_the_same_record_gives_the_same_chances_and_a_constant_changes_none() -> None:
    first = raced(named("a", "b"))
    assert raced(named("a", "b")) == first
    moved = raced(named("a", "b"), shifted(a=7.0, b=7.0))
    assert {name: one.named for name, one in moved.items()} == pytest.approx(
        {name: one.named for name, one in first.items()}, abs=0.02
    )


def test_one_that_is_not_tuned_stays_where_it_is() -> None:
    field = [*named("a"), Entrant("as given", recipes.sgd(lr=0.3))]

    def losses(name: str, values: Mapping[str, float], seed: int) -> float:
        return bowl(name, values or {"lr": 0.3}, seed)

    done = Simulated(field, losses, seeds=12)
    record = finished(done, losses)
    runs = [
        RunRecord("final", "as given", 0, seed, losses("as given", {}, seed), None, None, ())
        for seed in done.search.seeds.final
    ]
    found = {one.entrant: one for one in certainties(replace(record, runs=(*record.runs, *runs)))}
    assert found["a"].named > 0.95
    assert found["as given"].named < 0.05


def test_one_that_mostly_diverges_in_the_final_is_never_named() -> None:
    done = Simulated(named("a", "b"), seeds=12)
    record = finished(done)
    lost = [
        replace(run, score=math.nan) if (run.round, run.entrant) == ("final", "b") else run
        for run in record.runs
    ]
    found = {one.entrant: one for one in certainties(replace(record, runs=tuple(lost)))}
    assert found["b"] == Certainty("b", 0, 0)


def test_chances_are_those_with_which_races_name_an_entrant() -> None:
    """Over races on other seeds: the mean chance of each, and how often it was named."""
    make: Callable[[int], Simulated] = lambda seed: Simulated(  # noqa: E731
        named("a", "b", "c"), shifted(b=0.004, c=0.1), trials=12, seed=seed, seeds=12
    )
    chances, best = [], []
    for seed in range(12):
        record = finished(make(seed), shifted(b=0.004, c=0.1))
        found = {one.entrant: one.named for one in certainties(record)}
        chances.append([found[name] for name in "abc"])
        medians = [
            np.median([r.score for r in record.runs if (r.round, r.entrant) == ("final", name)])
            for name in "abc"
        ]
        best.append(np.eye(3)[int(np.argmin(medians))])
    assert np.mean(chances, axis=0) == pytest.approx(np.mean(best, axis=0), abs=0.25)
