"""Runs a comparison pair after pair, until it is decided, or pairs or time are used up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, takewhile

from thalweg.comparing import words
from thalweg.comparing.ledger import Ledger
from thalweg.comparing.looks import Looks
from thalweg.comparing.scores import Scores
from thalweg.comparing.sides import About, Outcome, Side
from thalweg.errors import UserError
from thalweg.lanes.lanes import Lanes, Made, in_blocks

HOPELESS = 3
"""Failed runs of a side, none having ended well, after which it is the side that is at fault."""


@dataclass
class Pairs:
    """A comparison that is ready to run.

    about: what is known about both sides. first: the seed of the first pair; each further pair has
    the next seed. lanes: the lanes of each side. deadline: the monotonic time in seconds after
    which no run begins. say: is called with each line that is shown.
    """

    sides: tuple[Side, Side]
    about: About
    ledger: Ledger
    lanes: tuple[Lanes, Lanes]
    plan: Looks
    first: int
    margin: float | None
    deadline: float
    say: Callable[[str], None]
    failed: tuple[list[tuple[int, Outcome]], list[tuple[int, Outcome]]] = field(
        default_factory=lambda: ([], [])
    )

    def run(self) -> None:
        """Makes all runs that are not in the ledger, and looks at the planned times."""
        for side in (0, 1):
            self.run_twice(side)
        while not self.is_decided() and (due := self.plan.after(self.ledger.last_look[0])):
            self.run_to(due)
            done = len(self.done())
            before, _ = self.ledger.last_look
            if done > before and self.plan.can_decide(done, before):
                self.ledger.add_look(done, self.plan.level(done, before))
                self.say(f"look at {done} pairs")
            if done < due:
                return

    def run_twice(self, side: int) -> None:
        """Runs a side with the first seed, and again in the same process.

        What fails or takes too long is found where pairs are made.
        """
        if self.ledger.twice(side) or time.monotonic() > self.deadline:
            return
        if (one := self.once(side)) is None or (again := self.once(side)) is None:
            return
        if self.first not in self.ledger.outcomes(side):
            self.add(side, [(self.first, one)])
        # Outcomes are compared as text, because nan is not equal to nan.
        alike = repr(one) == repr(again)
        self.ledger.add_twice(side, [one.score] if alike else [one.score, again.score])
        for told in self.not_paired(side):
            self.say(told)

    def once(self, side: int) -> Outcome | None:
        ((_, made),) = self.lanes[side].run([(self.first,)])
        return None if made.failure else made.value[0]

    def not_paired(self, side: int) -> Iterator[str]:
        """A sentence for a side of which two runs with one seed differ."""
        if len(scores := self.ledger.twice(side)) == 2:
            yield words.not_paired(self.sides[side].name, self.first, *scores)

    def is_decided(self) -> bool:
        pairs, level = self.ledger.last_look
        scores = self.scores(self.done()[:pairs])
        decided = pairs > 0 and scores.answer(level, self.margin) != "cannot tell"
        return decided or self.scores(self.done()).futile

    def run_to(self, due: int) -> None:
        """Makes the runs of both sides up to a number of pairs.

        It makes fewer if the time is up, or if more would show nothing.
        """
        seeds = range(self.first + len(self.done()), self.first + due)
        for some in in_blocks(seeds, self.lanes[0].count * self.about.width):
            if time.monotonic() > self.deadline or self.scores(self.done()).futile:
                return
            for side in (0, 1):
                self.make(side, some)
            self.say(f"{len(self.done())} of {self.plan.totals[-1]} pairs at most")

    def make(self, side: int, seeds: Sequence[int]) -> None:
        """Makes the missing runs of a side with these seeds.

        A block that fails is tried again run by run; a run that fails twice counts as diverged.
        """
        known = self.ledger.outcomes(side)
        missing = [seed for seed in seeds if seed not in known]
        width = min(self.about.width, math.ceil(len(missing) / self.lanes[side].count))
        again: list[Sequence[int]] = []
        for block, made in self.made(side, list(in_blocks(missing, width))):
            if made.failure:
                again += [(seed,) for seed in block]
            else:
                self.add(side, list(zip(block, made.value, strict=True)))
        for (seed,), made in self.made(side, again):
            outcome = Outcome(math.nan, (), made.failure) if made.failure else made.value[0]
            self.add(side, [(seed, outcome)])

    def made(
        self, side: int, blocks: Sequence[Sequence[int]]
    ) -> Iterator[tuple[Sequence[int], Made]]:
        for place, made in self.lanes[side].run(blocks):
            yield blocks[place], made

    def add(self, side: int, outcomes: list[tuple[int, Outcome]]) -> None:
        """Records runs. Failures are recorded only after one run of the side has ended well."""
        waiting = self.failed[side]
        failed = [(seed, one) for seed, one in outcomes if one.reason]
        for seed, one in failed:
            self.say(f"{self.sides[side].name} failed on seed {seed}: {one.reason}")
        waiting += failed
        ended = [(seed, one) for seed, one in outcomes if not one.reason]
        if ended or any(not one.reason for one in self.ledger.outcomes(side).values()):
            self.ledger.add_runs(side, [*ended, *waiting])
            waiting.clear()
        elif len(waiting) >= HOPELESS:
            raise UserError(
                f"Every run of {self.sides[side].name} fails: {waiting[0][1].reason.rstrip('.')}."
                " No failure is on record; the same command goes on when this is mended."
            )

    def done(self) -> list[tuple[Outcome, Outcome]]:
        """The finished pairs, from the first one on without a gap."""
        old, new = self.ledger.outcomes(0), self.ledger.outcomes(1)
        seeds = takewhile(lambda seed: seed in old and seed in new, count(self.first))
        return [(old[seed], new[seed]) for seed in seeds]

    def scores(self, pairs: Sequence[tuple[Outcome, Outcome]]) -> Scores:
        old, new = ([pair[side].score for pair in pairs] for side in (0, 1))
        names = (self.sides[0].name, self.sides[1].name)
        return Scores(names, self.about.metric, self.about.direction, old, new)


def about(side: Side, lanes: Lanes) -> About:
    """What is known about a side. Raises UserError if it cannot run."""
    ((_, made),) = lanes.run([None])
    if made.failure:
        raise UserError(f"{side.name}: {made.failure}.")
    found: About = made.value
    return found
