"""The configurations that entrants try at first."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import qmc

import thalweg as tw
from made_record import MADE, made_record
from thalweg import recipes, rules, schedules
from thalweg.errors import UserError
from thalweg.racing import draws
from thalweg.racing.entrants import (
    COOLINGS,
    DEFAULT_ENTRANTS,
    Entrant,
    baseline_entrant,
    cooling_of,
    entrant,
    tuned,
    with_cooling,
)
from thalweg.racing.record import Configuration, Edge
from thalweg.racing.search import Search, as_it_stands
from thalweg.recipes import Recipe, recipe_of
from thalweg.rules.space import Scale, Space, linear, log, log_one_minus
from thalweg.rules.tuning import documented

SPACES = st.one_of(
    st.builds(lambda low, ratio: log(low, low * ratio), st.floats(1e-6, 1.0), st.floats(1.5, 1e5)),
    st.builds(
        lambda near, ratio: log_one_minus(1 - near, 1 - near / ratio),
        st.floats(1e-2, 0.9),
        st.floats(1.5, 1e3),
    ),
    st.builds(lambda low, width: linear(low, low + width), st.floats(-10, 10), st.floats(0.1, 100)),
)


def drawn(field: Sequence[str | Entrant], cooling: str = "none") -> list[Configuration]:
    """The 16 points that each entrant explores, its own settings the first."""
    some = [entrant(one) for one in field]
    names = tuple(one.name for one in some)
    settings = replace(MADE, entrants=names, trials=48, cooling=cooling)
    found = Search(some, settings, {None: 100}).first_points
    assert len(found) == 16 * len(field)
    return found


def test_points_are_even_in_every_dimension() -> None:
    points = draws.quantiles(16, seed=3)
    for name in draws.NAMES:
        assert sorted(int(16 * point[name]) for point in points) == list(range(16))


def test_points_are_more_even_than_random_ones_in_the_plane() -> None:
    points = draws.quantiles(32, seed=1)
    plane = [[point["lr"], point["momentum"]] for point in points]
    at_random = np.random.default_rng(0).random((32, 2))
    assert qmc.discrepancy(plane) < 0.5 * qmc.discrepancy(at_random)


def test_points_repeat_by_seed_and_differ_between_seeds() -> None:
    assert draws.quantiles(8, seed=5) == draws.quantiles(8, seed=5)
    assert draws.quantiles(8, seed=5) != draws.quantiles(8, seed=6)


def test_more_trials_go_on_where_fewer_ended() -> None:
    assert draws.quantiles(16, seed=0)[:5] == draws.quantiles(5, seed=0)


def test_drawing_says_nothing(capfd: pytest.CaptureFixture[str], recwarn) -> None:
    draws.quantiles(4, seed=0)
    assert capfd.readouterr() == ("", "")
    assert not [w for w in recwarn if "QMC" in str(w.message)]


def test_entrants_that_share_a_name_try_the_same_quantiles() -> None:
    spaces = {name: entrant(name).space for name in DEFAULT_ENTRANTS}
    by_name: dict[tuple[str, int], set[float]] = {}
    for one in drawn(DEFAULT_ENTRANTS):
        for hyper, value in one.values.items():
            quantile = draws.quantile_of(spaces[one.entrant][hyper], value)
            by_name.setdefault((hyper, one.index), set()).add(round(quantile, 9))
    assert len(by_name) > 16
    assert all(len(found) == 1 for (_, index), found in by_name.items() if index > 0)


def test_the_first_point_is_an_entrants_own_settings() -> None:
    field = [*DEFAULT_ENTRANTS, Entrant("mine", recipes.adam(lr=0.02), {"lr": log(1e-4, 0.1)})]
    for one in drawn(field):
        if one.index == 0:
            given = recipes.adam(lr=0.02) if one.entrant == "mine" else recipes.named(one.entrant)
            for name, value in one.values.items():
                part = re.fullmatch(r"(\w+)\[(\d)\]", name)
                own = given.settings[part[1]][int(part[2])] if part else given.settings[name]
                space = documented(given.tunables)[name]
                assert value == pytest.approx(min(max(own, space.low), space.high))


def test_settings_beyond_their_space_begin_at_its_nearest_end() -> None:
    above = Entrant("above", recipes.sgd(lr=10), {"lr": log(1e-3, 1)})
    below = Entrant("below", recipes.sgd(lr=schedules.cosine(1e-6, steps=9)), {"lr": log(1e-3, 1)})
    first = [one.values["lr"] for one in drawn([above, below]) if one.index == 0]
    assert first == pytest.approx([1, 1e-3])


def test_an_entrant_tries_the_same_whoever_else_races() -> None:
    among = drawn(["sgd", "adam", "lion"])
    assert drawn(["adam"]) == [one for one in among if one.entrant == "adam"]


def test_every_value_lies_within_its_documented_space() -> None:
    for one in drawn(list(recipes.RECIPES), cooling="tune"):
        spaces = documented(recipes.named(one.entrant).tunables)
        assert one.values.keys() == spaces.keys()
        for hyper, value in one.values.items():
            assert spaces[hyper].low <= value <= spaces[hyper].high


@given(SPACES, st.floats(0, 1))
def test_quantiles_and_values_are_each_others_inverse(space: Space, quantile: float) -> None:
    value = draws.value_at(space, quantile)
    slack = 1e-9 * (space.high - space.low)
    assert space.low - slack <= value <= space.high + slack
    assert draws.quantile_of(space, value) == pytest.approx(quantile, abs=1e-6)


def test_scales_are_even_in_what_they_say() -> None:
    assert draws.value_at(log(1e-5, 1e-1), 0.5) == pytest.approx(1e-3)
    assert draws.value_at(log_one_minus(0.9, 0.999), 0.5) == pytest.approx(0.99)
    assert draws.value_at(linear(1, 3), 0.5) == pytest.approx(2)


def test_a_value_in_the_outermost_twentieth_is_at_the_edge() -> None:
    space = {"lr": log(2e-4, 0.5), "momentum": linear(0, 0.5)}
    field = [Entrant("mine", recipes.momentum(), space)]
    record = made_record({"mine": 0.1})
    search = Search(field, record.settings, {None: 100})

    def found(**values: float) -> list[Edge]:
        tried = Configuration("mine", 0, values, "")
        return search.edges(replace(record, configurations=(tried,)), {"mine": 0})

    assert found(lr=0.45, momentum=0.47) == [Edge("mine", "lr", 0.45, 2e-4, 0.5)]
    assert found(lr=2.01e-4, momentum=0.03)[0].low == 2e-4
    assert not found(lr=1e-2, momentum=0.25)


def test_the_parts_of_a_pair_are_tuned_apart() -> None:
    recipe = entrant("adam").configured({"betas[1]": 0.95})
    assert recipe.settings["betas"] == (0.9, 0.95)


@pytest.mark.parametrize(("cooling", "end"), [("none", 0.1), ("linear", 1e-3), ("cosine", 0.0)])
def test_cooling_ends_where_it_says(cooling: str, end: float) -> None:
    lr = with_cooling(recipes.sgd(lr=0.1), cooling, 50).settings["lr"]
    start, last = (lr, lr) if cooling == "none" else (lr(0), lr(50))
    assert (start, last) == (0.1, pytest.approx(end, abs=1e-12))


def test_tuned_cooling_tries_all_three() -> None:
    kinds = [cooling_of(one.recipe) for one in drawn(["sgd"], cooling="tune")]
    assert set(kinds) == set(COOLINGS)
    assert all(4 <= kinds.count(kind) <= 7 for kind in COOLINGS)


def test_a_baseline_stays_exactly_as_it_is() -> None:
    mine = recipes.adam(lr=schedules.one_cycle(0.01, steps=100))
    one = as_it_stands(baseline_entrant(mine))
    assert Recipe.from_toml(one.recipe) == mine
    assert (one.entrant, one.values) == ("adam (baseline)", {})


def test_a_baseline_file_without_a_name_is_called_after_its_file(tmp_path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[[rules]]\nrule = "SGD"\nlr = 0.5\n')
    assert baseline_entrant(str(path)).name == "mine (baseline)"
    assert recipe_of(path).settings["lr"] == 0.5


def test_a_recipe_is_tuned_in_the_spaces_of_all_its_rules() -> None:
    recipe = recipes.chain(rules.ClipValue(), recipes.adamw(), name="clipped")
    tuned_too = tuned(Entrant("clipped", recipe))
    assert set(tuned_too.space) == {"lr", "betas[0]", "betas[1]", "weight_decay"}


def test_a_decay_that_is_off_is_tuned_where_it_is_asked_for_alone() -> None:
    asked_for = {"weight_decay": log(1e-3, 1)}
    assert "weight_decay" not in tuned(Entrant("off", recipes.lion())).space
    assert "weight_decay" in tuned(Entrant("on", recipes.lion(weight_decay=0.1))).space
    assert "weight_decay" in tuned(Entrant("asked for", recipes.lion(), asked_for)).space


def test_a_hyperparameter_of_a_users_own_has_a_dimension_too() -> None:
    recipe = recipes.chain(rules.ClipValue(), recipes.sgd(), name="clipped")
    own = Entrant("clipped", recipe, {"lr": log(1e-3, 1), "clip_value": log(0.1, 10)})
    limits = [one.values["clip_value"] for one in drawn([own])]
    assert len(set(limits)) == 16
    assert all(0.1 <= limit <= 10 for limit in limits)


def test_a_pair_of_ends_is_a_space_on_the_documented_scale_or_else_on_a_plain_one() -> None:
    recipe = recipes.chain(rules.ClipValue(), recipes.momentum(weight_decay=0.1))
    ends = {"lr": (1, 2), "momentum": [0.5, 0.9], "clip_value": (0.1, np.float64(10))}
    assert Entrant("mine", recipe, ends).space == {
        "lr": log(1, 2),
        "momentum": log_one_minus(0.5, 0.9),
        "clip_value": log(0.1, 10),
    }
    from_zero = Entrant("mine", recipe, {"clip_value": (0, 1), "momentum": linear(0.1, 0.2)})
    assert from_zero.space == {"clip_value": linear(0, 1), "momentum": linear(0.1, 0.2)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"space": {"momentun": log(0.1, 1)}}, "entrant mine: no setting 'momentun' can be tuned"),
        ({"space": {"betas": (0.5, 0.9)}}, "no setting 'betas' can be tuned; did you mean betas["),
        ({"space": {"betas[2]": (0.5, 0.9)}}, "no setting 'betas[2]' can be tuned; did you mean"),
        ({"space": {"lr[0]": (0.5, 0.9)}}, "no setting 'lr[0]' can be tuned;"),
        (
            {"space": {3: (0.5, 0.9)}},
            "no setting 3 can be tuned; known are weight_decay, lr, betas[0]",
        ),
        ({"space": {"lr": (0.1, 1, 2)}}, "lr: it needs a low and a high end, such as [1e-4, 0.1]"),
        ({"space": {"lr": 0.1}}, "lr: it needs a low and a high end, such as [1e-4, 0.1], not 0.1"),
        ({"space": {"lr": None}}, "lr: it needs a low and a high end"),
        ({"space": {"lr": "ab"}}, "lr: it needs a low and a high end"),
        (
            {"space": {"lr": (1, 0.1)}},
            "lr: a space must go from a low to a higher value, not from 1",
        ),
        (
            {"space": {"lr": (0, 1)}},
            "lr: a space on the log scale begins above 0, not at 0; on the",
        ),
        (
            {"space": {"lr": ("a", 1)}},
            "lr: the ends of a space are finite numbers, such as 1e-4 and 0.1",
        ),
        ({"space": {"lr": (True, 2)}}, "lr: the ends of a space are finite numbers"),
        ({"space": {"lr": (0.1, math.inf)}}, "lr: the ends of a space are finite numbers"),
        ({"space": {"lr": (0.1, 10**400)}}, "lr: the ends of a space are finite numbers"),
        ({"space": {"lr": (5e-324, 1e308)}}, "lr: a space from 4.94066e-324 to 1e+308 cannot be"),
        ({"space": {"lr": linear(-1.0, 0.1)}}, "mine: lr must be finite and at least 0, not -1.0"),
        ({"space": {"betas[1]": log(0.5, 1)}}, "betas[1] must be at least 0 and below 1, not 1.0"),
        ({"space": {"last": (1, 9)}}, "no setting 'last' can be tuned"),
        ({"space": None}, "entrant mine: space must be a dict, such as {'lr': (1e-4, 0.1)}, not"),
        ({"space": [("lr", 1)]}, "entrant mine: space must be a dict"),
        (
            {"recipe": "adam"},
            "entrant mine: recipe must be a Recipe, such as thalweg.adam(lr=0.01)",
        ),
        ({"cooled": "yes"}, "entrant mine: cooled must be True or False, not 'yes'."),
        ({"name": ""}, "the name of an entrant must be printable text, not ''."),
        ({"name": "a\nb"}, "the name of an entrant must be printable text"),
        ({"name": 3}, "the name of an entrant must be printable text, not 3."),
    ],
)
def test_a_wrong_argument_of_an_entrant_gets_a_sentence(
    arguments: dict[str, Any], words: str
) -> None:
    recipe = recipes.chain(recipes.adam(), rules.WindowAverage(last=3))
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        tw.Entrant(**{"name": "mine", "recipe": recipe} | arguments)
    assert str(caught.value).endswith((".", "?"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1, 1), "a space must go from a low to a higher value, not from 1 to 1."),
        ((0.5, 1.0, "log_one_minus"), "a space on the scale log_one_minus ends below 1, not at 1."),
        ((1, 2, "lin"), "the scale of a space is linear, log or log_one_minus, not 'lin'."),
        ((1, 2, []), "the scale of a space is linear, log or log_one_minus, not []."),
        ((math.nan, 2), "the ends of a space are finite numbers"),
        (([1], 2), "the ends of a space are finite numbers, such as 1e-4 and 0.1, not [1]."),
        ((-1e308, 1e308, "linear"), "a space from -1e+308 to 1e+308 cannot be searched"),
    ],
)
def test_a_wrong_space_gets_a_sentence(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        tw.Space(*arguments)


@given(*[st.floats(allow_nan=False, allow_infinity=False)] * 2, st.sampled_from(get_args(Scale)))
def test_whatever_space_is_taken_can_be_searched(low: float, high: float, scale: Scale) -> None:
    try:
        space = Space(low, high, scale)
    except UserError:
        return
    for quantile in (0.0, 0.3, 1 - 2**-53):
        value = draws.value_at(space, quantile)
        assert math.isfinite(value)
        assert math.isfinite(draws.quantile_of(space, value))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("adma", "did you mean adam"),
        ("missing.toml", "missing.toml cannot be read"),
        (3, "a recipe is a Recipe, a rule, a name, or the path of a file, not 3"),
    ],
)
def test_an_entrant_that_is_none_gets_a_sentence(given: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        entrant(given)  # type: ignore[arg-type]


def test_a_recipe_file_with_a_typo_names_file_line_and_word(tmp_path) -> None:
    path = tmp_path / "typo.toml"
    path.write_text('[[rules]]\nrule = "Adam"\nbeta = [0.9, 0.99]\n')
    with pytest.raises(UserError, match=r"typo\.toml, line 3: .*beta; did you mean betas"):
        entrant(str(path))
