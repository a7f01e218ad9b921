"""The speeds that earlier races of the same kind measured, kept in the user's cache."""

from __future__ import annotations

import json
import platform
from dataclasses import astuple
from pathlib import Path

from thalweg.cache_folder import cache_folder
from thalweg.checksum import checksum
from thalweg.errors import UserError
from thalweg.racing.cost import Pace
from thalweg.racing.machine import machine
from thalweg.racing.record import Settings
from thalweg.training.fingerprint import EFFECT
from thalweg.whole_file import write_text

Timings = dict[str, Pace]
"""How fast blocks were trained, by the name of the way of stepping and the lanes."""


def place(settings: Settings) -> Path:
    """The file for all races of the same task, width, field and machine."""
    traits = {words: trait for words, trait in settings.fingerprint.items() if words != EFFECT}
    alike = (traits, settings.width, settings.entrants, machine(), platform.node())
    return cache_folder("timings") / f"{checksum([json.dumps(alike)])}.json"


def read(settings: Settings) -> Timings:
    """The known speeds; none if the file is missing or damaged."""
    try:
        kept, text = place(settings).read_text(encoding="utf-8").split("\n", 1)
    except (OSError, ValueError):
        return {}
    if kept != checksum([text]):
        return {}
    return {name: Pace(*pace) for name, pace in json.loads(text).items()}


def write(settings: Settings, timings: Timings) -> None:
    """Keeps the known speeds, if the file can be written."""
    text = json.dumps({name: astuple(pace) for name, pace in timings.items()})
    try:
        write_text(place(settings), f"{checksum([text])}\n{text}")
    except (OSError, UserError):
        return
