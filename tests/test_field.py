"""Who races as it was given, who is tuned, and that a race says so."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

import thalweg as tw
from thalweg.api import Race
from thalweg.errors import UserError
from thalweg.racing.field import baseline_tuned, entered
from thalweg.racing.progress import Silent
from thalweg.recipes import Recipe, recipe_of
from thalweg.rules.space import Space
from thalweg.tasks import find

SADDLE = replace(find("saddle"), steps=6)

A = 'name = "a"\n[[rules]]\nrule = "Adam"\nlr = 0.003\nbetas = [0.5, 0.6]\neps = 1e-3\n'
B = A.replace('"a"', '"b"').replace("0.003", '{schedule = "cosine", start = 0.03, steps = 6}')
WARM = """
name = "warm"
[[rules]]
rule = "Momentum"
lr = {schedule = "exponential", start = 0.1, gamma = 0.9}
momentum = {schedule = "warming", start = 0.5, end = 0.9, steps = 6}
"""


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.rounds: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def round_began(self, round: str, *_: Any) -> None:
        self.rounds.append(round)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with three recipe files."""
    monkeypatch.chdir(tmp_path)
    for name, text in {"a": A, "b": B, "warm": WARM}.items():
        Path(f"{name}.toml").write_text(text)
    return tmp_path


def raced(entrants: Any, task: tw.Task | str = SADDLE, **more: Any) -> Race:
    given = {"trials": 2, "tuning_seeds": 1, "seeds": 2, "width": 4, "step": "single", "lanes": 1}
    return tw.race(task, entrants, **given | more)


def tried(result: Race, name: str) -> list[Recipe]:
    """All recipes that an entrant was trained with."""
    return [Recipe.from_toml(c.recipe) for c in result.record.configurations if c.entrant == name]


# As it was given


@pytest.mark.usefixtures("files")
def test_recipe_files_race_with_the_settings_that_they_give() -> None:
    told = Told()
    result = raced("a.toml,b.toml", progress=told)
    assert tried(result, "a") == [Recipe.from_toml(A)]
    assert tried(result, "b") == [Recipe.from_toml(B)]
    assert result.best in (Recipe.from_toml(A), Recipe.from_toml(B))
    assert told.rounds == ["final"]
    assert told.lines[:2] == [
        "a races as it stands, untuned and without the common cooling:"
        " lr 0.003, betas[0] 0.5, betas[1] 0.6, eps 0.001.",
        "b races as it stands, untuned and without the common cooling:"
        " lr cosine from 0.03, betas[0] 0.5, betas[1] 0.6, eps 0.001.",
    ]


@pytest.mark.usefixtures("files")
def test_recipes_from_python_race_as_they_stand_beside_names_that_are_tuned() -> None:
    mine = tw.momentum(lr=0.01, momentum=tw.schedules.warming(0.5, 0.9, steps=6))
    result = raced([mine, "sgd"], cooling="tune")
    assert tried(result, "momentum") == [mine]
    assert len(tried(result, "sgd")) == 2
    (row,) = [row for row in result.verdict.summaries if row.entrant == "momentum"]
    assert row.values == {}


@pytest.mark.usefixtures("files")
def test_a_verdict_and_its_report_say_how_many_were_tuned() -> None:
    none = raced(["a.toml", "b.toml"])
    assert "these 2 recipes, none of them tuned, on saddle by height" in none.verdict.sentence
    limits = " ".join(none.verdict.limits)
    assert (
        "This verdict is about these recipes on saddle, with 6 steps each. It is not about"
        in limits
    )
    assert "a and b raced without tuning, with the given settings and schedules." in limits
    assert "tuned with" not in limits
    assert "tried with" not in limits
    assert none.report().read_text().count("as given") == 2

    some = raced(["a.toml", "sgd"], name="some", baseline="b.toml")
    assert "these 4 recipes, 2 of them tuned, on saddle" in some.verdict.sentence
    assert "the tuned under linear cooling to a hundredth" in some.verdict.sentence
    limits = " ".join(some.verdict.limits)
    assert "Each tuned entrant was tried with 2 configurations, and the best 2 again on" in limits
    assert "a raced without tuning" in limits
    assert "b (baseline) raced as it is used now" in limits
    assert (
        "The gain by tuning alone is the gain of b (tuned) over b (baseline), which includes the"
        " common cooling."
    ) in limits
    page = some.report().read_text()
    assert page.count(">used now<") == page.count(">used now, tuned<") == 1


@pytest.mark.usefixtures("files")
def test_a_race_that_diverges_untuned_is_not_advised_to_widen_its_spaces() -> None:
    wild = [tw.Entrant(name, tw.sgd(lr=lr)) for name, lr in {"x": 1e30, "y": 1e31}.items()]
    assert "let it be tuned" in raced(wild).verdict.advice[0]


# Tuned


@pytest.mark.usefixtures("files")
def test_a_file_with_a_space_is_tuned_there_and_keeps_the_rest() -> None:
    Path("a.toml").write_text(A + '[space]\nlr = [1e-3, 1e-2]\n"betas[1]" = [0.9, 0.99]\n')
    Path("warm.toml").write_text(
        WARM.replace('{schedule = "warming", start = 0.5, end = 0.9, steps = 6}', "0.9")
        + '[space.momentum]\nlow = 0.2\nhigh = 0.4\nscale = "linear"\n'
    )
    told = Told()
    result = raced(["a.toml", "warm.toml"], progress=told)
    assert len(tried(result, "a")) == 2
    for one in tried(result, "a"):
        lr, betas = one.settings["lr"], one.settings["betas"]
        assert (lr.kind, one.settings["eps"], betas[0]) == ("linear", 1e-3, 0.5)
        assert 1e-3 <= lr.base <= 1e-2
        assert 0.9 <= betas[1] <= 0.99
    for one in tried(result, "warm"):
        assert one.settings["lr"] == tw.schedules.exponential(0.1, gamma=0.9)
        assert 0.2 <= one.settings["momentum"] <= 0.4
    notes = (
        "a is tuned in lr (0.001 to 0.01) and betas[1] (0.9 to 0.99); it keeps betas[0] 0.5 and eps"
        " 0.001, and races under linear cooling to a hundredth.",
        "warm is tuned in momentum (0.2 to 0.4); it keeps lr exponential from 0.1.",
    )
    assert result.record.notes == tuple(told.lines[:2]) == notes


@pytest.mark.usefixtures("files")
def test_what_is_to_be_tuned_is_tuned_where_it_is_documented_and_keeps_a_warming_momentum() -> None:
    result = raced(["a.toml", "warm.toml", "sgd"], tune=["./a.toml", "warm.toml"])
    warming = tw.schedules.warming(0.5, 0.9, steps=6)
    assert [one.settings["momentum"] for one in tried(result, "warm")] == [warming] * 2
    assert {one.settings["lr"].kind for one in tried(result, "warm")} == {"linear"}
    first, second = (one.settings for one in tried(result, "a"))
    assert first["betas"] != second["betas"]
    assert (first["eps"], second["eps"]) == (1e-3, 1e-3)
    assert result.record.notes == (
        "a is tuned in lr (1e-05 to 1), betas[0] (0.5 to 0.99) and betas[1] (0.8 to 0.9999); it"
        " keeps eps 0.001, and races under linear cooling to a hundredth.",
        "warm is tuned in lr (0.0001 to 1); it keeps momentum warming from 0.5, and races under"
        " linear cooling to a hundredth in place of its own schedule.",
    )


@pytest.mark.usefixtures("files")
def test_a_space_of_ones_own_stands_before_the_documented_one() -> None:
    own = tw.Entrant("own", tw.momentum(), {"lr": (0.01, 0.02)})
    result = raced([own, tw.sgd(lr=0.1)], tune=[own, "sgd"])
    values = [c.values for c in result.record.configurations]
    assert [set(one) for one in values] == [{"lr", "momentum"}] * 2 + [{"lr"}] * 2
    assert all(0.01 <= one["lr"] <= 0.02 for one in values[:2])


@pytest.mark.usefixtures("files")
def test_an_lr_that_is_tuned_without_the_common_cooling_keeps_the_shape_of_its_schedule() -> None:
    recipe = tw.sgd(lr=tw.schedules.one_cycle(0.1, steps=6))
    own = tw.Entrant("own", recipe, {"lr": (0.01, 0.02)}, cooled=False)
    told = Told()
    result = raced([own, "adam"], progress=told)
    for one in tried(result, "own"):
        lr = one.settings["lr"]
        assert 0.01 <= lr.base <= 0.02
        assert lr == tw.schedules.one_cycle(lr.base, steps=6)
    assert told.lines[0].endswith("it races with the shape of its own schedule.")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"tune": ["warm.toml"]}, r"tune names 'warm.toml', which does not race; entrants are"),
        ({"tune": "sgd"}, r"tune names 'sgd', which does not race; .* 'a.toml', <Recipe adam>\."),
        ({"tune": [tw.sgd()]}, r"tune names <Recipe sgd>, which does not race"),
        ({"tune": [5]}, r"tune: an entrant is a name, .* not 5\."),
        ({"tune": 5}, r"tune must be a list of entrants, or names with commas, not 5"),
        (
            {"entrants": [tw.Entrant("x", tw.sgd()), tw.Entrant("x", tw.adam())]},
            r"two entrants are called x",
        ),
    ],
)
def test_what_cannot_be_tuned_gets_a_sentence(files: Path, more: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        raced(**{"entrants": ["a.toml", tw.adam()]} | more)
    assert not (files / "runs").exists()


@pytest.mark.usefixtures("files")
def test_a_schedule_that_tuning_would_replace_is_refused() -> None:
    Path("warm.toml").write_text(f"{WARM}\n[space]\nmomentum = [0.5, 0.9]\n")
    with pytest.raises(
        UserError, match=r"warm\.toml, line 9: momentum follows a schedule, which tuning would"
    ):
        raced(["warm.toml", "sgd"])
    pair = tw.adam(betas=(tw.schedules.constant(0.9), 0.99))
    with pytest.raises(UserError, match=r"entrant x: betas\[0\] follows a schedule"):
        tw.Entrant("x", pair, {"betas[0]": (0.5, 0.9)})


# The baseline, as it stands and tuned


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("baseline", ["momentum", tw.momentum(), "warm.toml"])
def test_a_baseline_that_nobody_else_is_races_as_it_stands_and_tuned(
    baseline: str | Recipe,
) -> None:
    told = Told()
    result = raced(["sgd", "adam"], baseline=baseline, progress=told)
    name = "warm" if baseline == "warm.toml" else "momentum"
    now, same = f"{name} (baseline)", f"{name} (tuned)"
    settings = result.record.settings
    assert settings.entrants == ("sgd", "adam", same, now)
    assert (settings.baseline, settings.baseline_tuned) == (now, same)
    (kept,), tuned = tried(result, now), tried(result, same)
    assert len(tuned) == len(tried(result, "sgd")) == 2
    assert kept == recipe_of(baseline)
    assert all(one.settings["lr"].kind == "linear" for one in tuned)
    if name == "warm":
        assert all(one.settings["momentum"] == kept.settings["momentum"] for one in tuned)
    assert told.lines[-5].startswith(f"{now} races as it stands")
    assert told.lines[-4] == (
        f"{same} races beside {now}: it is the same but tuned, and shows what tuning alone gains."
    )


NEAR = tw.Entrant("near", tw.adam(eps=1e-3), {"lr": (1e-3, 1e-2)})
FULL = tw.Entrant("full", tw.adam(eps=1e-3), {"eps": (1e-8, 1e-2), "lr": (1e-3, 1e-2)})
WITH_CLIPPING = tw.chain(tw.clip_norm(1.0), tw.adam(), name="clipped")


@pytest.mark.parametrize(
    ("entrants", "baseline", "same"),
    [
        (["sgd", "adam"], "adam", "adam"),
        (["sgd", "adam"], tw.adam(lr=tw.schedules.cosine(0.2, steps=6), betas=(0.5, 0.6)), "adam"),
        (["adam", "sgd"], tw.adam(eps=1e-3), "adam (tuned)"),
        ([tw.adam(), "sgd"], tw.adam(), "adam (tuned)"),
        ([NEAR, "sgd"], tw.adam(eps=1e-3, lr=1.0), "near"),
        ([NEAR, "sgd"], tw.adam(eps=1e-3, betas=(0.5, 0.6)), "adam (tuned)"),
        (["adam", FULL, NEAR], tw.adam(eps=1e-4), "full"),
        (["adam", "sgd"], WITH_CLIPPING, "clipped (tuned)"),
        (["adamw", "sgd"], "adam", "adam (tuned)"),
        (["adam"], tw.Recipe(tw.adam().rules, "adam", "by task"), "adam (by task)"),
        (["adam"], tw.Recipe(tw.adam().rules, "adam", "by network"), "adam (by network) (tuned)"),
        (["adam"], "sgd", "sgd (tuned)"),
        ([], "sgd", "sgd (tuned)"),
    ],
)
def test_an_entrant_that_is_tuned_and_like_the_baseline_serves_and_else_one_is_added(
    entrants: list[Any], baseline: str | Recipe, same: str
) -> None:
    field = entered(entrants, [], baseline, ["by task"])
    names = [one.name for one in field]
    assert baseline_tuned(field, field[-1]) == same
    assert len(names) == 2 * len(entrants) + same.endswith("(tuned)") + 1
    assert field[names.index(same)].space
    assert not field[-1].space


@pytest.mark.usefixtures("files")
def test_a_baseline_of_which_nothing_can_be_tuned_races_alone() -> None:
    Path("rules.py").write_text(
        "from thalweg.rules import SGD, Hyper\nclass fixed(SGD):\n    lr = Hyper(0.1)\n"
    )
    told = Told()
    result = raced(["sgd"], baseline="rules.py:fixed", progress=told)
    assert result.record.settings.entrants == ("sgd", "fixed (baseline)")
    assert result.record.settings.baseline_tuned is None
    assert "tuning alone" not in " ".join((*told.lines, str(result.verdict)))


# Winners of earlier races, entrants that are alike, races that are repeated


@pytest.mark.usefixtures("files")
def test_the_winner_of_a_race_meets_the_optimizer_that_it_is_called_after() -> None:
    earlier = raced(["adam", "a.toml"])
    Path("winner.toml").write_text(tried(earlier, "adam")[0].to_toml())
    told = Told()
    later = raced(["adam", "winner.toml"], name="later", progress=told)
    assert later.record.settings.entrants == ("adam", "adam (winner.toml)")
    assert tried(later, "adam (winner.toml)") == tried(earlier, "adam")[:1]
    assert told.lines[1].startswith("adam (winner.toml) races as it stands, untuned")


@pytest.mark.usefixtures("files")
def test_two_entrants_that_are_alike_are_said_to_be() -> None:
    Path("b.toml").write_text(A.replace('"a"', '"b"'))
    told = Told()
    result = raced(["a.toml", "b.toml"], progress=told)
    line = (
        "a and b are one recipe with the same settings and space: no number of seeds tells them"
        " apart."
    )
    assert told.lines[0] == line
    assert line in result.verdict.limits


@pytest.mark.usefixtures("files")
def test_the_command_that_repeats_a_race_says_what_is_tuned() -> None:
    given = {"task": "saddle", "entrants": ["a.toml", "b.toml"], "tune": ["b.toml"]}
    result = raced(**given, trials=1)
    assert result.record.command.startswith(
        "thalweg race saddle --entrants a.toml,b.toml --tune b.toml --trials 1 --tuning-seeds 1"
        " --seeds 2"
    )
    named = raced([tw.adam(), "a.toml"], tune=[tw.adam(), Path("a.toml")], name="named")
    assert "entrants=[<Recipe adam>, 'a.toml'], tune=[<Recipe adam>, 'a.toml'], trials=2" in (
        named.record.command
    )


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("file", "more"),
    [
        (f"{A}[space]\nlr = [1e-3, 1e-1]\n", {}),
        (A, {}),
        (A, {"tune": "a.toml"}),
        (f"{A}[space]\nlr = [1e-3, 1e-2]\neps = [1e-9, 1e-8]\n", {}),
    ],
    ids=["another space", "no space", "the documented space", "a larger space"],
)
def test_a_race_does_not_go_on_in_another_space(file: str, more: dict[str, Any]) -> None:
    Path("a.toml").write_text(f"{A}[space]\nlr = [1e-3, 1e-2]\n")
    raced(["a.toml", "b.toml"])
    Path("a.toml").write_text(file)
    with pytest.raises(
        UserError, match="another recipe or search space for a; nothing was changed"
    ):
        raced(["a.toml", "b.toml"], **more)


# The [space] table

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
values = st.recursive(
    st.none().map(lambda _: {})
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**300, max_value=10**400)
    | st.floats()
    | texts
    | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["low", "high", "scale", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)
numbers = st.sampled_from([0, 1e-4, 0.1, 0.5, 0.9, 1, 2, math.inf, math.nan, -1.0])
scales = st.sampled_from(["linear", "log", "log_one_minus", "lin", 3])
spaces = st.tuples(numbers, numbers).map(list) | st.fixed_dictionaries(
    {"low": numbers, "high": numbers}, optional={"scale": scales}
)
settings = st.sampled_from(["lr", "betas[0]", "betas[1]", "betas", "eps", "betas[7]", "lr[0]", "x"])
tables = values | st.dictionaries(settings | texts, values | spaces)


def require_a_space_or_a_sentence(text: str) -> None:
    try:
        recipe, found = Recipe.with_space(text)
    except UserError as error:
        assert "\n" not in str(error)
        assert str(error).endswith((".", "?"))
        assert str(error).startswith(("line ", "the recipe "))
        return
    assert all(isinstance(space, Space) for space in found.values())
    assert tw.Entrant("mine", recipe, found).space == found


@given(tables)
def test_any_space_is_taken_or_gets_a_sentence(table: Any) -> None:
    adam = {"rule": "Adam", "lr": 0.1, "betas": [0.9, 0.99]}
    require_a_space_or_a_sentence(tomli_w.dumps({"rules": [adam], "space": table}))


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.text("lr = [0.1e,]{}\"'\n#x"))
def test_any_text_in_a_space_is_taken_or_gets_a_sentence(text: str) -> None:
    require_a_space_or_a_sentence(f'[[rules]]\nrule = "SGD"\n[space]\n{text}')


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("[space]", "line 7: space must be a table that says where a setting is tuned, such as lr"),
        ("[space]\nlr = 3", "line 8: lr: it needs a low and a high end, such as [1e-4, 0.1], not"),
        ("[space]\nlr = [1, 0.1]", "line 8: lr: a space must go from a low to a higher value, not"),
        ("[space]\n\nbetas[0] = [0.5, 0.9]", 'in quotes, such as "betas[0]".'),
        ("[space]\nlr = [1, 2]\nlr = [1, 2]", "the recipe is no TOML: Cannot overwrite a value"),
        (f"[space]\nlr = {'9' * 5000}", "the recipe is no TOML: Exceeds the limit"),
        (f"[space]\nlr = {'[' * 3000}{']' * 3000}", "the recipe is nested too deep;"),
        (
            "[space]\nbeta = [0.5, 0.9]",
            "line 8: no setting 'beta' can be tuned; did you mean betas[",
        ),
        (
            '[space]\n"betas[1]" = [0.5, 1.5]',
            "line 8: betas[1]: a space on the scale log_one_minus",
        ),
        ("[space.lr]\nlow = -1\nhigh = 1", "line 7: lr: a space on the log scale begins above 0"),
        ("[spaces]\nlr = [1, 2]", "line 7: a recipe file has no spaces; did you mean space?"),
    ],
)
def test_a_bad_space_gets_a_sentence_with_its_line(table: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        Recipe.from_toml(A + table)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
