"""The rounds of a race: the search for each entrant's best, then these over fresh seeds.

What is left to do is worked out from the ledger, so that a race that was stopped goes on from the
last checkpoints of its blocks, and does what it would have done.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from shutil import rmtree

from thalweg import statistics
from thalweg.errors import FailedError
from thalweg.lanes.lanes import Lanes, in_blocks
from thalweg.racing import wording
from thalweg.racing.certainty import certainties
from thalweg.racing.entrants import Entrant
from thalweg.racing.gaussian_process import one_blas_thread
from thalweg.racing.ledger import Ledger
from thalweg.racing.piece import UNFINISHED, Block, Piece, unfinished
from thalweg.racing.plan import block_of
from thalweg.racing.progress import InWork, Progress
from thalweg.racing.record import (
    Configuration,
    Departure,
    Key,
    Look,
    Plan,
    Round,
    RunRecord,
    Settings,
)
from thalweg.racing.search import Search, seeds_from
from thalweg.racing.sentences import stopped
from thalweg.racing.subject import Subject
from thalweg.training.learn import AfterStep


@dataclass(frozen=True)
class Rounds:
    """A race that is ready to run.

    subject: what is trained. search: of the entrants that are tuned. timeout: seconds without a
    step after which a training has failed; none for as long as it takes.
    """

    subject: Subject
    settings: Settings
    entrants: Sequence[Entrant]
    search: Search
    ledger: Ledger
    progress: Progress
    plan: Plan
    timeout: float | None = None

    def run(self) -> None:
        """Does all that is not in the ledger yet, and then opens the seal on the test scores."""
        with self.subject.lanes(self.trained, self.plan, self.timeout) as lanes:
            chosen = self.ledger.chosen() or self.tune(lanes)
            self.final(chosen, lanes)
        record = self.ledger.read()
        if not record.certainties:
            with one_blas_thread():
                found = list(certainties(record))
            self.ledger.add_certainties(found)
        self.ledger.open_seal()
        rmtree(self.ledger.folder / UNFINISHED, ignore_errors=True)

    # The tuning round

    def tune(self, lanes: Lanes) -> dict[str, int]:
        """Searches; each entrant's best configuration.

        An entrant of which no configuration ended well is not among them.
        """
        sizes = self.search.sizes
        if self.search.field:
            kept = len(self.ledger.scores("tuning").keys() & self.ledger.kept())
            self.begin("tuning", list(self.search.field), kept + sum(sizes))
        for stage in range(len(sizes)):
            self.train("tuning", self.asked(stage), lanes)
        record = self.ledger.read()
        with one_blas_thread():
            tuned = self.search.chosen(record)
        chosen = {
            one.name: 0 if not one.space else tuned[one.name]
            for one in self.entrants
            if not one.space or one.name in tuned
        }
        self.ledger.add_choice(chosen, self.search.edges(record, tuned))
        return chosen

    def asked(self, stage: int) -> Sequence[Key]:
        """The members of a stage of the search, which are on record before they are trained."""
        if members := self.ledger.asked(stage):
            return members
        record = self.ledger.read()
        with one_blas_thread():
            asked = self.search.asked(stage, record)
        self.ledger.add_asked(stage, asked.configurations, asked.members, asked.stops)
        if asked.stops:
            self.progress.say(stopped(asked.stops))
        return asked.members

    # The final round

    def final(self, chosen: Mapping[str, int], lanes: Lanes) -> None:
        """Trains the chosen configurations over fresh seeds until one entrant is left on the
        shortlist or the seeds are spent.
        """
        seeds = seeds_from(self.settings).final
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
        company whether the race was stopped or not. Those of a block are pre-trained in one way;
        those of optimizers that step by themselves are alone.
        A block that fails is tried once more, when all others are done.
        """
        kept, done = self.ledger.kept(), self.ledger.scores(round)
        wanted = [key for key in wanted if key not in kept]
        before = self.ledger.trained - sum(key in done for key in wanted)
        places = {key: 1 + before + place for place, key in enumerate(wanted)}
        size = block_of(self.plan.way, self.plan.width)
        kinds = {one.name: one.recipe for one in self.entrants}
        alike = groupby(wanted, lambda key: (kinds[key[0]].pretrain, bool(kinds[key[0]].foreign)))
        cut = chain.from_iterable(
            in_blocks(list(keys), 1 if foreign else size) for (_, foreign), keys in alike
        )
        missing = [[key for key in block if key not in done] for block in cut]
        failed = self.attempt(round, [block for block in missing if block], places, lanes)
        if not failed:
            return
        failed = self.attempt(round, [block for block, _ in failed], places, lanes)
        parted = [self.one_by_one(round, *block, lanes) for block in failed]
        failures = [one.reason or "" for records in parted for one in records if one.failed]
        if failures:
            self.require_another_to_end_well(failures[0], lanes)
        for records in parted:
            self.add(records, places)

    def attempt(
        self, round: Round, wanted: Sequence[Block], places: Mapping[Key, int], lanes: Lanes
    ) -> list[tuple[Block, str]]:
        """Trains blocks and puts them on record; those that fail, with their last words."""
        failed = []
        in_work = InWork(self.progress, [len(block) for block in wanted])
        for place, made in lanes.run(self.pieces(round, wanted), in_work.stepped):
            in_work.ended(place)
            if made.failure:
                failed.append((wanted[place], made.failure))
            else:
                self.add(made.value, places)
        return failed

    def one_by_one(self, round: Round, block: Block, failure: str, lanes: Lanes) -> list[RunRecord]:
        """What becomes of a block that has failed: of its members alone, to find who fails."""
        if len(block) == 1:
            return [failed_record(round, block[0], failure)]
        found = dict(lanes.run(self.pieces(round, [[key] for key in block])))
        return [
            failed_record(round, key, found[place].failure)
            if found[place].failure
            else found[place].value[0]
            for place, key in enumerate(block)
        ]

    def require_another_to_end_well(self, failure: str, lanes: Lanes) -> None:
        """FailedError where all trainings fail, or one that has ended well before fails now too.

        It is then not the settings that make trainings fail, and no failure is put on record.
        """
        scores = self.ledger.scores("tuning") | self.ledger.scores("final")
        well = [key for key, score in scores.items() if math.isfinite(score)]
        if scores and not well:
            return
        if well:
            ((_, again),) = lanes.run(self.pieces("tuning", [well[:1]]))
            failure = again.failure
        if failure:
            which = "A training that ended well before" if well else "Every training"
            raise FailedError(
                f"{which} of {self.subject.called} fails: {failure}. No failure is on"
                " record; the same command goes on when this is mended."
            )

    def add(self, records: Sequence[RunRecord], places: Mapping[Key, int]) -> None:
        """Puts the members of a block on record, from the first one's place on."""
        round, (first, *_) = records[0].round, records
        self.ledger.add_runs(records, places[first.member])
        unfinished(self.ledger.folder, round, [one.member for one in records]).unlink(True)
        for one in records:
            if one.failed:
                self.progress.say(self.failure_in_words(one))
        scores = self.ledger.scores(round)
        self.progress.block_ended(len(scores), self.best_so_far(round, scores))

    def failure_in_words(self, run: RunRecord) -> str:
        settings = wording.values(self.configurations()[run.member[:2]].values)
        return (
            f"{run.entrant}{f' with {settings}' if settings else ''} failed on seed {run.seed}:"
            f" {run.reason}. It counts as diverged, and the race goes on."
        )

    def configurations(self) -> dict[tuple[str, int], Configuration]:
        return {one.key: one for one in self.ledger.configurations()}

    def pieces(self, round: Round, wanted: Sequence[Block]) -> list[Piece]:
        """Blocks as a lane needs them, which began before their recipes were known."""
        known = self.configurations()
        return [
            Piece(round, block, [known[name, index].recipe for name, index, _ in block])
            for block in wanted
        ]

    def trained(self, piece: Piece, watch: AfterStep) -> list[RunRecord]:
        """What becomes of a block of members; in a lane."""
        place = unfinished(self.ledger.folder, piece.round, piece.block)
        return piece.records(self.subject.trained(piece, self.plan, place, watch))

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


def failed_record(round: Round, key: Key, failure: str) -> RunRecord:
    return RunRecord(round, *key, math.nan, None, failure, ())
