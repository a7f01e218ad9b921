"""The rounds of a race: every configuration once, then the best of each entrant over fresh seeds.

What is left to do is worked out from the ledger, so that a race that was stopped goes on from its
last finished block, and does what it would have done.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby

from thalweg import statistics
from thalweg.racing.draws import edges
from thalweg.racing.entrants import Entrant
from thalweg.racing.lanes import Lanes
from thalweg.racing.ledger import Key, Ledger
from thalweg.racing.plan import block_of
from thalweg.racing.progress import InWork, Progress
from thalweg.racing.record import (
    Configuration,
    Departure,
    Edge,
    Look,
    Plan,
    Round,
    RunRecord,
    Settings,
)
from thalweg.recipes import Recipe
from thalweg.stack.member import Member
from thalweg.tasks.task import Task
from thalweg.training.learn import Watch
from thalweg.training.run import Run
from thalweg.training.train import train_members


@dataclass(frozen=True)
class Rounds:
    """A race that is ready to run.

    drawn: what each entrant tries, by its name and the trial's index.
    """

    task: Task
    settings: Settings
    entrants: Sequence[Entrant]
    drawn: Mapping[tuple[str, int], tuple[Configuration, Recipe]]
    ledger: Ledger
    progress: Progress
    plan: Plan

    def run(self) -> None:
        """Does all that is not in the ledger yet, and then opens the seal on the test scores."""
        with Lanes(self.trained, self.plan.lanes) as lanes:
            chosen = self.ledger.chosen() or self.tune(lanes)
            self.final(chosen, lanes)
        self.ledger.open_seal()

    # The tuning round

    def tune(self, lanes: Lanes) -> dict[str, int]:
        """Trains every configuration with the tuning seed; each entrant's best one.

        An entrant of which every configuration diverged is not among them.
        """
        if self.tuning:
            self.begin("tuning", [one.name for one in self.entrants if one.space], len(self.tuning))
            self.train("tuning", self.tuning, lanes)
        scores = self.ledger.scores("tuning")
        best = {one.name: self.best_configuration(one, scores) for one in self.entrants}
        chosen = {name: index for name, index in best.items() if index is not None}
        self.ledger.add_choice(chosen, self.edges(chosen))
        return chosen

    @cached_property
    def tuning(self) -> list[Key]:
        """The members of the tuning round; an entrant without a space has nothing to choose."""
        seed = seeds_from(self.settings)[0]
        tuned = {one.name for one in self.entrants if one.space}
        return [(name, index, seed) for name, index in self.drawn if name in tuned]

    def best_configuration(self, entrant: Entrant, scores: Mapping[Key, float]) -> int | None:
        """The index of the best score, the lowest among equals; none if all diverged."""
        if not entrant.space:
            return 0
        own = {
            index: score
            for (name, index, _), score in sorted(scores.items())
            if name == entrant.name and math.isfinite(score)
        }
        better = min if self.settings.direction == "min" else max
        return better(own, key=own.__getitem__) if own else None

    def edges(self, chosen: Mapping[str, int]) -> list[Edge]:
        return [
            edge
            for one in self.entrants
            if one.name in chosen
            for edge in edges(one.name, one.space, self.drawn[one.name, chosen[one.name]][0].values)
        ]

    # The final round

    def final(self, chosen: Mapping[str, int], lanes: Lanes) -> None:
        """Trains the chosen configurations over fresh seeds until one entrant is left on the
        shortlist or the seeds are spent.
        """
        _, *seeds = seeds_from(self.settings)
        self.begin("final", list(chosen), len(chosen) * len(seeds))
        looks = {look.seeds: look for look in self.ledger.looks()}
        on, before = tuple(chosen), 0
        for count in statistics.looks(len(seeds)) if on else ():
            if count not in looks:
                fresh = seeds[before:count]
                wanted = [(name, chosen[name], seed) for name in on for seed in fresh]
                self.train("final", wanted, lanes)
                looks[count] = self.look(on, seeds[:count])
            left = {departure.entrant for departure in looks[count].left}
            on, before = tuple(name for name in on if name not in left), count
            if len(on) == 1:
                break

    def look(self, on: Sequence[str], seeds: Sequence[int]) -> Look:
        """Compares the entrants still on over these seeds, and puts the look on record."""
        by_seed = {(name, seed): x for (name, _, seed), x in self.ledger.scores("final").items()}
        scores = {name: [by_seed[name, seed] for seed in seeds] for name in on}
        level = statistics.level_at(len(seeds), self.settings.seeds, self.settings.alpha)
        result = statistics.shortlist(scores, on, level, self.settings.direction)
        left = tuple(Departure(one.name, one.beaten_by, one.p) for one in result.departures)
        look = Look(len(seeds), result.level, tuple(on), left)
        self.ledger.add_look(look)
        self.progress.looked(look)
        return look

    # Both

    def begin(self, round: Round, entrants: Sequence[str], members: int) -> None:
        done = len(self.ledger.scores(round))
        self.progress.round_began(round, entrants, done, members, self.settings.steps)

    def train(self, round: Round, wanted: Sequence[Key], lanes: Lanes) -> None:
        """Trains, block by block, those of the wanted members that are not in the ledger.

        The blocks are cut before the finished ones are left out, so that a member has the same
        company whether the race was stopped or not. Those of a block are pre-trained in one way.
        """
        done = self.ledger.scores(round)
        before = len(self.ledger.scores("tuning") | self.ledger.scores("final"))
        before -= sum(key in done for key in wanted)
        size = block_of(self.plan.way, self.plan.width)
        alike = groupby(wanted, lambda key: self.drawn[key[:2]][1].pretrain)
        cut = chain.from_iterable(blocks(list(keys), size) for _, keys in alike)
        missing = [[key for key in block if key not in done] for block in cut]
        pieces = [(round, block) for block in missing if block]
        in_work = InWork(self.progress, [len(keys) for _, keys in pieces])
        for place, records in lanes.run(pieces, in_work.stepped):
            in_work.ended(place)
            self.ledger.add_runs(records, 1 + before + wanted.index(pieces[place][1][0]))
            scores = self.ledger.scores(round)
            self.progress.block_ended(len(scores), self.best_so_far(round, scores))

    def trained(self, piece: tuple[Round, Sequence[Key]], watch: Watch) -> list[RunRecord]:
        """What becomes of a block of members; in a lane."""
        round, keys = piece
        members = [Member(self.drawn[name, index][1], seed) for name, index, seed in keys]
        runs = train_members(
            self.task,
            members,
            width=self.plan.width,
            way=self.plan.way,
            test=round == "final",
            watch=watch,
        )
        return [record_of(round, *pair) for pair in zip(keys, runs, strict=True)]

    def best_so_far(self, round: Round, scores: Mapping[Key, float]) -> dict[str, float]:
        """Each entrant's best score in the tuning round, its median in the final; nan: diverged."""
        own: dict[str, list[float]] = {}
        for (name, _, _), score in scores.items():
            own.setdefault(name, []).append(score)
        direction = self.settings.direction
        if round == "final":
            return {
                name: statistics.median_interval(values, direction).estimate
                for name, values in own.items()
            }
        better = min if direction == "min" else max
        return {
            name: better((x for x in values if math.isfinite(x)), default=math.nan)
            for name, values in own.items()
        }


def seeds_from(settings: Settings) -> list[int]:
    """The seed of the tuning round, and then those of the final round, all different."""
    return random.Random(settings.seed).sample(range(2**31), settings.seeds + 1)


def blocks(members: Sequence[Key], size: int) -> Iterator[Sequence[Key]]:
    """The members in order, `size` at a time."""
    for start in range(0, len(members), size):
        yield members[start : start + size]


def record_of(round: Round, key: Key, run: Run) -> RunRecord:
    entrant, configuration, seed = key
    return RunRecord(
        round=round,
        entrant=entrant,
        configuration=configuration,
        seed=seed,
        score=run.score,
        diverged_step=run.diverged.step if run.diverged else None,
        reason=run.diverged.reason if run.diverged else None,
        curve=run.curve,
        test=dict(run.test),
    )
