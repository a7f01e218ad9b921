"""Reads two columns of scores from a CSV file."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from thalweg.arguments import require_path, short
from thalweg.errors import UserError, suggest
from thalweg.whole_file import read_text
from thalweg.wording import listed


@dataclass(frozen=True)
class Columns:
    """Two columns of scores, old first. They are paired if they have the same length."""

    names: tuple[str, str]
    scores: tuple[list[float], list[float]]

    @property
    def paired(self) -> bool:
        return len(self.scores[0]) == len(self.scores[1])


def read_columns(path: Path, wanted: str | None = None) -> Columns:
    """The two columns of a file, or the two columns with the wanted names.

    A row is a pair: two runs with one seed. `nan` is a run that diverged. If one column ends before
    the other, there are no pairs.

    wanted: two names of the first row, with a comma. Raises `UserError` if there are no two such
    columns.
    """
    require_path("the path of a CSV file", path)
    text = read_text("the file", path)
    rows = [[cell.strip() for cell in row] for row in csv.reader(StringIO(text)) if any(row)]
    if not rows:
        raise UserError(f"The file {path} is empty; it must have two columns of numbers.")
    has_names = any(not is_numeral(cell) for cell in rows[0])
    if has_names and len(rows[0]) == 2 and any(map(is_numeral, rows[0])):
        raise UserError(
            f"The first row of {path} has a name and a number, {listed(rows[0])}: it must have two"
            " names, or the first two numbers."
        )
    head = rows[0] if has_names else ["old", "new"] if len(rows[0]) == 2 else []
    names = head if wanted is None else [name.strip() for name in wanted.split(",")]
    if len(names) != 2:
        raise UserError(
            f"The file {path} must have two columns; say which two with --columns old,new"
            f" ({f'there are {listed(head)}' if head else 'it has no row of names'})."
        )
    for name in names:
        if name not in head:
            raise UserError(f"The file {path} has no column {short(name)}; {suggest(name, head)}")
        if [*head, *names].count(name) > 2:
            raise UserError(f"The two columns of {path} must have two names, not {short(name)}.")
    old, new = (column(path, rows, head.index(name), int(has_names)) for name in names)
    return Columns((names[0], names[1]), (old, new))


def column(path: Path, rows: list[list[str]], place: int, first: int) -> list[float]:
    """The numbers of a column, from row `first` on. It may end before other columns."""
    cells = [row[place] if place < len(row) else "" for row in rows[first:]]
    while cells and not cells[-1]:
        cells.pop()
    for number, cell in enumerate(cells, first + 1):
        if not is_numeral(cell):
            raise UserError(
                f"Row {number} of {path} must have a number in column {place + 1}, or nan for a"
                f" run that diverged, not {short(cell)}."
            )
    if not cells:
        raise UserError(f"Column {place + 1} of {path} has no numbers.")
    return [float(cell) for cell in cells]


def is_numeral(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
