"""Showing a race while it runs: a live table on a terminal, and plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from thalweg.racing.progress import Silent
from thalweg.racing.record import Look, Round
from thalweg.racing.wording import counted, number


class Lines(Silent):
    """Prints a line for each event, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.members = 0

    def say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def round_began(
        self,
        round: Round,
        entrants: Sequence[str],
        done: int,
        members: int,
        steps: int,  # noqa: ARG002
    ) -> None:
        self.members = members
        found = f", {done} of them already in the ledger" if done else ""
        who = counted(len(entrants), "entrant")
        self.say(f"{round} round: {who}, {members} members at most{found}")

    def block_ended(self, done: int, best: dict[str, float]) -> None:  # noqa: ARG002
        self.say(f"  {done} of {self.members} members done")

    def looked(self, look: Look) -> None:
        self.say(described(look))


class Screen(Silent):
    """A live table: round, members alive, best so far, member-steps per second, time left."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.round: Round | None = None
        self.best: dict[str, float | None] = {}
        self.done = self.found = self.members = self.steps = 0
        self.taken = self.alive = self.in_work = 0
        self.began = time.monotonic()
        self.live = Live(
            console=console, refresh_per_second=4, get_renderable=self.drawn, transient=True
        )

    def __enter__(self) -> Screen:
        self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.live.stop()

    def say(self, line: str) -> None:
        self.live.console.print(line, markup=False, highlight=False)

    def round_began(
        self, round: Round, entrants: Sequence[str], done: int, members: int, steps: int
    ) -> None:
        self.round, self.members, self.steps = round, members, steps
        self.done = self.found = done
        self.best = dict.fromkeys(entrants)
        self.taken, self.began = 0, time.monotonic()

    def stepped(self, taken: int, alive: int, members: int) -> None:
        self.taken, self.alive, self.in_work = taken, alive, members

    def block_ended(self, done: int, best: dict[str, float]) -> None:
        self.taken = max(0, self.taken - (done - self.done) * self.steps)
        self.done = done
        self.best |= best

    def looked(self, look: Look) -> None:
        self.say(described(look))

    def drawn(self) -> Group | Text:
        if self.round is None:
            return Text("")
        table = Table(box=None, padding=(0, 2))
        table.add_column("entrant")
        table.add_column("best so far" if self.round == "tuning" else "median so far")
        for entrant, score in self.best.items():
            table.add_row(escape(entrant), "" if score is None else number(score))
        return Group(Text(self.heading()), table)

    def heading(self) -> str:
        taken = (self.done - self.found) * self.steps + self.taken
        rate = taken / max(time.monotonic() - self.began, 1e-9)
        left = (self.members - self.found) * self.steps - taken
        remaining = f", about {left / rate:.0f} s left at most" if taken else ""
        return (
            f"{self.round} round: {self.done} of {self.members} members done, "
            f"{self.alive} of {self.in_work} in work are alive, "
            f"{rate:,.0f} member-steps/s{remaining}"
        )


def described(look: Look) -> str:
    """A look in one line."""
    names = ", ".join(departure.entrant for departure in look.left)
    out = f"out: {names}" if names else "none out"
    remaining = len(look.on) - len(look.left)
    return f"look at {look.seeds} seeds: {out}; {remaining} on the shortlist"
