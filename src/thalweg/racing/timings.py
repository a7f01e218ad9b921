"""What earlier races of the same kind measured, kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import astuple
from pathlib import Path

from thalweg.cache_folder import cache_folder
from thalweg.errors import UserError
from thalweg.racing.cost import Pace
from thalweg.racing.machine import machine
from thalweg.racing.record import Settings
from thalweg.whole_file import write_text

Timings = dict[str, Pace]
"""How fast blocks were trained, by the name of the way and the lanes."""


def place(settings: Settings) -> Path:
    """The file of all races whose blocks take as long: of one task, width, field and machine."""
    alike = (settings.fingerprint, settings.width, settings.entrants, machine(), platform.node())
    name = hashlib.sha256(json.dumps(alike).encode()).hexdigest()[:16]
    return cache_folder("timings") / f"{name}.json"


def read(settings: Settings) -> Timings:
    """What is known; nothing where the file is missing or damaged."""
    try:
        return {name: Pace(*pace) for name, pace in json.loads(place(settings).read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write(settings: Settings, timings: Timings) -> None:
    """Keeps what is known, where it can be kept."""
    try:
        write_text(place(settings), json.dumps({n: astuple(pace) for n, pace in timings.items()}))
    except (OSError, UserError):
        return
