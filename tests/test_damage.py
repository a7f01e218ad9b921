"""Files that are damaged: a sentence, or the same result; never another one, and no traceback."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from test_race import NET, Watched, outcome, short
from test_training import Told, small
from thalweg import pretrain, recipes
from thalweg.errors import UserError
from thalweg.racing import plan_file, timings
from thalweg.racing.cost import Pace
from thalweg.racing.ledger import FILE
from thalweg.recipes import recipe_of
from thalweg.training.train import train


def damages(whole: bytes, count: int) -> Iterator[bytes]:
    """Flipped bits, lost ends, zeros, and an empty file, the same at each call."""
    draw = random.Random(0)
    for i in range(count):
        damaged = bytearray(whole)
        place = draw.randrange(len(whole))
        if i % 4 == 2:
            damaged = damaged[:place]
        elif i % 4 == 3:
            size = min(draw.choice([1, 16, 512]), len(whole) - place)
            damaged[place : place + size] = bytes(size)
        else:
            for _ in range(1 + 7 * (i % 4)):
                damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        yield bytes(damaged)
    yield b""


def refused(path: Path, count: int, call: Callable[[], Any], expected: Any = None) -> int:
    """How many of so many damages are told. What is not comes to what is expected, if anything."""
    whole = path.read_bytes()
    told = 0
    for damaged in damages(whole, count):
        path.write_bytes(damaged)
        try:
            result = call()
        except UserError as error:
            assert "\n" not in str(error)
            told += 1
        else:
            assert expected in (None, result)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError):
        call()
    path.rmdir()
    path.write_bytes(whole)
    return told


@pytest.mark.parametrize("stop", [0, 9], ids=["finished", "stopped"])
def test_a_damaged_ledger_is_told_or_does_no_harm(tmp_path: Path, stop: int) -> None:
    def raced(**more: Any) -> Any:
        entrants = ["sgd", "adam"]
        return outcome(short(tmp_path, NET, entrants, trials=1, seeds=2, **more).record)

    if stop:
        with pytest.raises(KeyboardInterrupt):
            raced(progress=Watched(stop))
        before = (tmp_path / "net" / FILE).read_bytes()
    expected = raced()
    if stop:
        (tmp_path / "net" / FILE).write_bytes(before)
    assert refused(tmp_path / "net" / FILE, 30, raced, expected) > 7


def test_a_ledger_with_damaged_text_is_told_in_one_line(tmp_path: Path) -> None:
    short(tmp_path, NET, ["sgd", "adam"], trials=1, seeds=2)
    path = tmp_path / "net" / FILE
    path.write_bytes(path.read_bytes().replace(b"step_seconds_low", b"step_seconds_lo\xff"))
    with pytest.raises(UserError, match=r"is damaged \([^\n]*\); begin under another name"):
        short(tmp_path, NET, ["sgd", "adam"], trials=1, seeds=2)


def test_a_damaged_unfinished_training_is_told_or_does_no_harm(tmp_path: Path) -> None:
    task, out = small(steps=20), tmp_path / "model"

    def trained(**more: Any) -> str:
        done = train(task, "adam", out=out, **more)
        out.unlink()
        return repr((done.run, done.kept, done.validation))

    expected = trained()
    with pytest.raises(KeyboardInterrupt):
        trained(progress=Told(15))
    assert refused(tmp_path / "model.unfinished", 40, trained, expected) > 30


def test_a_damaged_stage_is_told_or_does_no_harm(tmp_path: Path) -> None:
    task = small(steps=6, difficulty=lambda _: small(steps=6), curriculum=[1])

    def trained() -> str:
        return repr(pretrain.by_task(task, recipes.sgd(), tmp_path).runs)

    expected = trained()
    assert refused(tmp_path / "stage-1.safetensors", 40, trained, expected) > 30


def test_damaged_timings_are_forgotten(tmp_path: Path) -> None:
    settings = short(tmp_path).record.settings
    known = {"single": Pace(1.0, 2.0, 3.0), "stacked": Pace(4.0, 5.0, 6.0)}
    timings.write(settings, known)
    place = timings.place(settings)
    whole = place.read_bytes()
    assert timings.read(settings) == known
    for damaged in damages(whole, 60):
        place.write_bytes(damaged)
        assert timings.read(settings) in ({}, known)
    for text in ("[]", '{"single": ["a", "b", "c"]}', '{"single": [1]}', "null"):
        place.write_text(text)
        assert timings.read(settings) == {}


@pytest.mark.parametrize("name", ["plan.toml", "winner.toml"])
def test_a_damaged_toml_file_is_told_where_it_cannot_be_read(tmp_path: Path, name: str) -> None:
    path = short(tmp_path).folder / name
    read: Callable[[Path], Any] = plan_file.read if name == "plan.toml" else recipe_of
    assert refused(path, 100, lambda: read(path)) > 30
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as editors on Windows begin a text
    read(path)
    with path.open("ab") as file:
        file.truncate(2**40)  # which takes no room on the disk
    with pytest.raises(UserError, match="is too large"):
        read(path)
    for text in ("a = " + "[" * 3000, "a = " + "9" * 5000, "way = [1]\nlanes = true\nwidth = 1"):
        path.write_text(text)
        with pytest.raises(UserError):
            read(path)
