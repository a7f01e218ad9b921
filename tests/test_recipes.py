"""Recipes: chains that could train, files that come back, and sentences for the rest."""

from __future__ import annotations

import re
from collections import UserList
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg import rules, schedules
from thalweg.errors import UserError, suggest
from thalweg.recipes import (
    PRETRAINING,
    RECIPES,
    Recipe,
    adam,
    adamw,
    block_average,
    chain,
    clip_norm,
    clip_value,
    ema,
    lion,
    momentum,
    named,
    rmsprop,
    sgd,
    tail_average,
)
from thalweg.rules.rule import Rule


def back(recipe: Recipe) -> Recipe:
    return Recipe.from_toml(recipe.to_toml())


@pytest.mark.parametrize("name", RECIPES)
def test_a_named_recipe_comes_back_from_its_file(name: str) -> None:
    assert back(named(name)) == named(name)
    assert named(name).name == name


# Any chain: numbers and schedules that every hyperparameter may take.

numbers = st.floats(0, 0.999)
steps = st.integers(1, 10**6)
shares = st.floats(1e-3, 1.0)
plain_schedules = st.one_of(
    st.builds(schedules.constant, numbers),
    st.builds(schedules.linear, shares.filter(lambda x: x < 1), st.just(0.1), steps=steps),
    st.builds(schedules.warming, steps=steps),
    st.builds(schedules.exponential, numbers, shares),
    st.builds(schedules.inverse_time, numbers, st.floats(0.1, 1e4)),
    st.builds(schedules.cosine, numbers, steps=steps),
    st.builds(schedules.step, numbers, shares, steps),
    st.builds(schedules.one_cycle, numbers, st.integers(20, 10**6)),
    st.builds(schedules.plateau, numbers, shares, st.integers(0, 9)),
)
scheduled = plain_schedules | st.builds(schedules.warmup, plain_schedules, steps)


def settings_for(rule: type[Rule]) -> st.SearchStrategy[Rule]:
    def one(default: Any) -> st.SearchStrategy[Any]:
        if isinstance(default, tuple):
            return st.tuples(*[one(part) for part in default])
        return numbers | scheduled

    usual = {n: h for n, h in rule.hypers.items() if h.low <= 0 and h.high > 0}
    hypers = {n: one(hyper.default) for n, hyper in usual.items()}
    whole = {n: st.integers(1, min(10**6, one.high)) for n, one in rule.options.items()}
    words = {n: st.sampled_from(one.among) for n, one in rule.options.items() if one.among}
    return st.builds(rule, **hypers, **whole | words)


KINDS = list(rules.RULES.values())


@st.composite
def any_recipe(draw: st.DrawFn) -> Recipe:
    def some(fits: Callable[[type[Rule]], bool]) -> list[Rule]:
        kinds = st.sampled_from([kind for kind in KINDS if fits(kind)])
        return [draw(settings_for(kind)) for kind in draw(st.lists(kinds, max_size=1))]

    stepping = draw(st.sampled_from([kind for kind in KINDS if "lr" in kind.hypers]))
    own = stepping.known().keys()
    beside = {kind for kind in KINDS if not own & kind.known().keys()}
    front = some(lambda kind: kind in beside and kind.place in ("anywhere", "before"))
    behind = some(lambda kind: kind in beside and kind.place == "behind") if not front else []
    last = some(lambda kind: kind.place == "last")
    recipe = [*front, draw(settings_for(stepping)), *behind, *last]
    name = draw(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1))
    return Recipe(tuple(recipe), name, draw(st.sampled_from((None, *PRETRAINING))))


@given(any_recipe())
def test_any_recipe_comes_back_from_its_file(recipe: Recipe) -> None:
    assert back(recipe) == recipe


def test_a_file_written_by_hand() -> None:
    text = """
    name = "mine"          # a comment with lr = 7 in it

    [[rules]]
    rule = "ClipValue"
    clip_value = 2

    [[rules]]
    rule = "Adam"
    lr = {schedule = "linear", start = 0.003, steps = 2000}
    betas = [0.8, {schedule = "constant", value = 0.99}]
    """
    lr = schedules.linear(0.003, steps=2000)
    made = rules.Adam(lr=lr, betas=(0.8, schedules.constant(0.99)))
    assert Recipe.from_toml(text) == chain(clip_value(2.0), made, name="mine")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('name = "x"\nrules = [', "the recipe is no TOML: "),
        ('name = "x"\nlr == 3', "the recipe is no TOML: Invalid value (at line 2, column 5)."),
        ('name = "x"', "the recipe has no [[rules]]; it needs such a table for each of its rules."),
        ("rules = [1, 2]", "the recipe has no [[rules]];"),
        ("name = 3", "line 1: name must be printable text, not 3."),
        ('\nnam = "x"', "line 2: a recipe file has no nam; did you mean name?"),
        ('[[rule]]\nrule = "SGD"', "line 1: a recipe file has no rule; did you mean rules?"),
        ('[[rules]]\n\nrule = "Adm"', "line 3: no rule is called Adm; did you mean Adam?"),
        (
            "[[rules]]\nrule = 3",
            "line 2: no rule is called 3; known are Adadelta,",
        ),
        (
            '[[rules]]\nclip_value = 1.0\n[[rules]]\nrule = "SGD"',
            "line 1: this table does not say which rule it is",
        ),
        (
            '[[rules]]\nrule = "Momentum"\nmomentun = 0.9',
            "line 3: Momentum has no setting momentun; did you mean momentum?",
        ),
        (
            '[[rules]]\nrule = "ClipNorm"\n\n[[rules]]\nrule = "SGD"  # lr = 1\nlr = -0.1',
            "line 6: lr must be finite and at least 0, not -0.1.",
        ),
        (
            '[[rules]]\nrule = "Adam"\nlr = 0.1\nbetas = [0.9, 1.5]',
            "line 4: betas[1] must be at least 0 and below 1, not 1.5.",
        ),
        ('[[rules]]\nrule = "SGD"\nlr = nan', "line 3: lr must be finite and at least 0, not nan."),
        (
            '[[rules]]\nrule = "SGD"\n"lr" = "big"',
            "line 3: lr must be a number or a schedule, not 'big'.",
        ),
        (
            '[[rules]]\nrule = "SGD"\nlr = {schedule = "liner", start = 0.1}',
            "line 3: no schedule is called liner; did you mean linear?",
        ),
        (
            '[[rules]]\nrule = "SGD"\n\n[rules.lr]\nschedule = "linear"\nstart = 0.1',
            "line 4: linear: steps must be given.",
        ),
        (
            '[[rules]]\nrule = "SGD"\n\n[[rules]]\nrule = "TailAverage"\nlast = 3',
            "line 5: TailAverage needs steps, a positive whole number.",
        ),
        (
            '[[rules]]\nrule = "SGD"\n\n[[rules]]\nrule = "WindowAverage"\nlast = 3.5',
            "line 6: last must be a whole number from 1 to 10000, not 3.5.",
        ),
        (
            '[[rules]]\nrule = "ClipNorm"',
            "a recipe needs exactly one rule that takes the step and has an lr; this one has 0.",
        ),
    ],
)
def test_a_bad_file_gets_a_sentence_with_the_line(text: str, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        Recipe.from_toml(text)
    assert str(raised.value).startswith(sentence)
    assert "\n" not in str(raised.value)


# Chains.


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ([], "a recipe needs exactly one rule that takes the step and has an lr; this one has 0."),
        ([clip_norm(1.0)], "a recipe needs exactly one rule that takes the step"),
        ([sgd(), adam()], "a recipe needs exactly one rule that takes the step and has an lr;"),
        ([adam(weight_decay=0.1), rules.DecoupledDecay()], "two rules of one recipe both have"),
        ([clip_value(1.0), sgd(), clip_value(2.0)], "two rules of one recipe both have clip_value"),
        (
            [sgd(), rules.L2Decay(weight_decay=0.1)],
            "L2Decay must stand before SGD, which takes the step.",
        ),
        (
            [rules.DecoupledDecay(), rules.Adam()],
            "DecoupledDecay must stand behind Adam, which takes the step.",
        ),
        ([tail_average(3), sgd()], "WindowAverage must stand last in its recipe."),
        ([sgd(), ema(0.9), clip_value(1.0)], "ExponentialAverage must stand last in its recipe."),
        (["adam"], "a chain is made of rules and recipes, not 'adam'."),
        ([rules.Adam], "a chain is made of rules and recipes, not <class"),
    ],
)
def test_a_chain_that_could_not_train_gets_one_sentence(parts: list[Any], sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        chain(*parts)
    assert str(raised.value).startswith(sentence)


def test_a_chain_joins_rules_and_recipes_in_order() -> None:
    made = chain(clip_norm(2.0), adamw(lr=0.1), block_average(7), name="all")
    kinds = [type(rule) for rule in made.rules]
    assert kinds == [rules.ClipNorm, rules.Adam, rules.DecoupledDecay, rules.BlockAverage]
    assert made.name == "all"
    assert made.settings == {
        "max_norm": 2.0,
        "lr": 0.1,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.01,
        "last": 7,
    }


def test_replacing_settings_changes_these_alone() -> None:
    recipe = chain(clip_norm(2.0), momentum(lr=0.1))
    changed = recipe.replace(lr=0.5, max_norm=1.0)
    assert changed.settings == {
        "max_norm": 1.0,
        "weight_decay": 0.0,
        "lr": 0.5,
        "momentum": 0.9,
    }
    assert recipe.settings["lr"] == 0.1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"momentun": 0.5}, "recipe momentum has no setting momentun; did you mean momentum?"),
        ({"momentum": 1.5}, "momentum must be at least 0 and below 1, not 1.5."),
    ],
)
def test_replacing_by_nonsense_gets_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        momentum().replace(**settings)
    assert str(raised.value) == sentence


def test_averages_know_what_they_cost() -> None:
    assert tail_average(5) == rules.WindowAverage(last=5)
    assert tail_average(5, steps=20) == rules.TailAverage(last=5, steps=20)


def test_settings_that_are_on_choose_the_rule_and_a_decay_is_always_there() -> None:
    plain, half = rules.L2Decay(), rules.L2Decay(weight_decay=0.5)
    assert rmsprop().rules == (plain, rules.RMSprop())
    assert rmsprop(momentum=0.5).rules == (plain, rules.RMSpropMomentum(momentum=0.5))
    assert rmsprop(centered=True).rules == (plain, rules.CenteredRMSprop())
    both = rules.CenteredRMSpropMomentum(momentum=0.5)
    assert rmsprop(centered=True, momentum=0.5, weight_decay=0.5).rules == (half, both)
    warming = schedules.warming(steps=9)
    assert sgd(momentum=warming).rules == (plain, rules.SGDMomentum(momentum=warming))
    assert sgd(momentum=0.5, nesterov=True).rules == (plain, rules.SGDNesterov(momentum=0.5))
    assert adam(amsgrad=True).rules == (plain, rules.AMSGrad())
    beside = rules.DecoupledDecay(weight_decay=0.5)
    assert adam(weight_decay=0.5, decoupled_weight_decay=True).rules == (rules.Adam(), beside)
    assert lion(weight_decay=0.5).rules == (rules.Lion(), beside)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"nesterov": True}, "nesterov needs momentum too."),
        ({"nesterov": 1}, "nesterov must be True or False, not 1."),
        ({"momentum": "much"}, "momentum must be a number or a schedule, not 'much'."),
        (
            {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
            "dampening must be 0, not 0.1.",
        ),
    ],
)
def test_what_no_rule_does_gets_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        sgd(**settings)
    assert str(raised.value) == sentence


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("adamm", "no optimizer is called adamm; did you mean adam?"),
        ("xyz", f"no optimizer is called xyz; known are {', '.join(RECIPES)}."),
    ],
)
def test_an_unknown_optimizer_gets_a_suggestion(name: str, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        named(name)
    assert str(raised.value) == sentence


def test_rules_are_equal_when_their_settings_are() -> None:
    assert rules.Adam(lr=0.1) == rules.Adam(lr=0.1)
    assert rules.Adam(lr=0.1) != rules.Adam(lr=0.2)
    assert rules.Adam() != rules.AMSGrad()
    assert len({rules.Adam(), rules.Adam(lr=1e-3), rules.AMSGrad()}) == 2


def test_a_suggestion_is_the_nearest_word_or_all_of_them() -> None:
    assert suggest("adm", ["sgd", "adam"]) == "did you mean adam?"
    assert suggest("qqq", ["sgd", "adam"]) == "known are sgd, adam."


@pytest.mark.parametrize("name", ["RAdam", "Lamb", "Adafactor", "Muon"])
def test_an_optimizer_is_one_file(name: str) -> None:
    """Beside the stubs, which tests/stubs.py prints, and examples in docstrings."""
    source = Path(rules.__file__).parents[1]
    word = re.compile(rf"\b{name}\b", re.IGNORECASE)
    code = {
        file: re.sub('""".*?"""', "", file.read_text(), flags=re.S) for file in source.rglob("*.py")
    }
    files = [file for file, text in code.items() if word.search(text)]
    assert files == [source / "rules" / f"{name.lower()}.py"]


def test_a_pair_may_be_any_sequence_as_configurations_have_them() -> None:
    assert adam(betas=UserList([0.8, 0.99])) == adam(betas=(0.8, 0.99))
    with pytest.raises(UserError, match=r"betas\[0\] must be a number or a schedule, not 'a'"):
        adam(betas="ab")  # type: ignore[arg-type]
