"""The configurations that entrants try."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import qmc

from thalweg import recipes, rules, schedules
from thalweg.errors import UserError
from thalweg.racing import draws
from thalweg.racing.entrants import (
    COOLINGS,
    DEFAULT_ENTRANTS,
    Entrant,
    baseline_entrant,
    configurations,
    documented_space,
    entrant,
    with_cooling,
)
from thalweg.recipes import Recipe, from_file
from thalweg.rules.space import Space, linear, log, log_one_minus

SPACES = st.one_of(
    st.builds(lambda low, ratio: log(low, low * ratio), st.floats(1e-6, 1.0), st.floats(1.5, 1e5)),
    st.builds(
        lambda near, ratio: log_one_minus(1 - near, 1 - near / ratio),
        st.floats(1e-2, 0.9),
        st.floats(1.5, 1e3),
    ),
    st.builds(lambda low, width: linear(low, low + width), st.floats(-10, 10), st.floats(0.1, 100)),
)


def drawn(names: list[str], trials: int = 16, cooling: str = "none", seed: int = 0):
    return configurations([entrant(name) for name in names], trials, cooling, {None: 100}, seed)


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
    for (name, index), (configuration, _) in drawn(list(DEFAULT_ENTRANTS)).items():
        for hyper, value in configuration.values.items():
            quantile = draws.quantile_of(spaces[name][hyper], value)
            by_name.setdefault((hyper, index), set()).add(round(quantile, 9))
    assert len(by_name) > 16
    assert all(len(found) == 1 for found in by_name.values())


def test_an_entrant_tries_the_same_whoever_else_races() -> None:
    alone, among = drawn(["adam"]), drawn(["sgd", "adam", "lion"])
    assert all(among[key] == value for key, value in alone.items())


def test_every_value_lies_within_its_documented_space() -> None:
    for (name, _), (configuration, recipe) in drawn(list(recipes.RECIPES), cooling="tune").items():
        spaces = documented_space(recipes.named(name))
        assert configuration.values.keys() == spaces.keys()
        for hyper, value in configuration.values.items():
            assert spaces[hyper].low <= value <= spaces[hyper].high
        assert Recipe.from_toml(configuration.recipe) == recipe


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
    space = {"lr": log(1e-4, 1.0), "momentum": linear(0, 1)}
    found = draws.edges("sgd", space, {"lr": 0.9, "momentum": 0.94})
    assert [(edge.hyper, edge.value, edge.high) for edge in found] == [("lr", 0.9, 1.0)]
    assert draws.edges("sgd", space, {"lr": 1.01e-4, "momentum": 0.06})[0].low == 1e-4
    assert not draws.edges("sgd", space, {"lr": 1e-2, "momentum": 0.5})


def test_the_parts_of_a_pair_are_tuned_apart() -> None:
    recipe = entrant("adam").configured({"betas[1]": 0.95})
    assert recipe.settings["betas"] == (0.9, 0.95)


@pytest.mark.parametrize(("cooling", "end"), [("none", 0.1), ("linear", 1e-3), ("cosine", 0.0)])
def test_cooling_ends_where_it_says(cooling: str, end: float) -> None:
    lr = with_cooling(recipes.sgd(lr=0.1), cooling, 50).settings["lr"]
    start, last = (lr, lr) if cooling == "none" else (lr(0), lr(50))
    assert (start, last) == (0.1, pytest.approx(end, abs=1e-12))


def test_tuned_cooling_tries_all_three() -> None:
    tried = [recipe.settings["lr"] for _, recipe in drawn(["sgd"], cooling="tune").values()]
    kinds = [getattr(lr, "kind", "none") for lr in tried]
    assert set(kinds) == set(COOLINGS)
    assert all(4 <= kinds.count(kind) <= 7 for kind in COOLINGS)


def test_a_baseline_stays_exactly_as_it_is() -> None:
    mine = recipes.adam(lr=schedules.one_cycle(0.01, steps=100))
    ((configuration, recipe),) = configurations(
        [baseline_entrant(mine)], 16, "linear", {None: 100}, 0
    ).values()
    assert recipe == mine
    assert (configuration.entrant, configuration.values) == ("adam (baseline)", {})


def test_a_baseline_file_without_a_name_is_called_after_its_file(tmp_path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[[rules]]\nrule = "SGD"\nlr = 0.5\n')
    assert baseline_entrant(str(path)).name == "mine (baseline)"
    assert from_file(path).settings["lr"] == 0.5


def test_a_recipe_is_tuned_in_the_spaces_of_all_its_rules() -> None:
    recipe = recipes.chain(rules.ClipValue(), recipes.adamw(), name="clipped")
    assert set(entrant(recipe).space) == {"lr", "betas[0]", "betas[1]", "weight_decay"}


def test_a_hyperparameter_of_a_users_own_has_a_dimension_too() -> None:
    recipe = recipes.chain(rules.ClipValue(), recipes.sgd(), name="clipped")
    own = Entrant("clipped", recipe, {"lr": log(1e-3, 1), "clip_value": log(0.1, 10)})
    limits = [
        c.values["clip_value"] for c, _ in configurations([own], 16, "none", {None: 10}, 0).values()
    ]
    assert len(set(limits)) == 16
    assert all(0.1 <= limit <= 10 for limit in limits)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"momentun": log(0.1, 1)}, "no setting momentun"),
        ({"lr": log(1.0, 0.1)}, "from a low to a higher value"),
        ({"lr": log(0.0, 0.1)}, "above 0 on the log scale"),
        ({"lr": log_one_minus(0.5, 1.0)}, "below 1"),
        ({"lr": linear(-1.0, 0.1)}, "lr must be finite and at least 0"),
        ({"lr": linear(0.1, math.inf)}, "lr must be finite and at least 0"),
    ],
)
def test_a_space_that_cannot_be_searched_gets_a_sentence(space: dict, words: str) -> None:
    with pytest.raises(UserError, match=words.replace("[", r"\[")):
        Entrant("mine", recipes.sgd(), space)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("adma", "did you mean adam"),
        ("missing.toml", "missing.toml cannot be read"),
        (3, "a recipe is a Recipe, a name, or the path of a file, not 3"),
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
