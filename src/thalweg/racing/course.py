"""The course of a race that is ready: its plan, its rounds, and those of tuning that is added."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from thalweg.racing import cost, plan_file
from thalweg.racing.entrants import Entrant
from thalweg.racing.field import alike, beside_baseline, by_name, told
from thalweg.racing.ledger import Ledger
from thalweg.racing.machine import machine
from thalweg.racing.plan import most_final_members
from thalweg.racing.progress import Progress
from thalweg.racing.record import Cost, Plan, Record, Settings
from thalweg.racing.rounds import Rounds
from thalweg.racing.search import Search, as_it_stands
from thalweg.racing.subject import Subject
from thalweg.recipe import Recipe


@dataclass(frozen=True)
class Course:
    """A race that is ready to run.

    subject: what is trained. field: who races. settings: all that was asked for. command: begins
    the race. named: its folder, as the caller names it. timeout: seconds without a step after
    which a training has failed.
    """

    subject: Subject
    field: Sequence[Entrant]
    settings: Settings
    command: str
    named: Path
    progress: Progress
    timeout: float | None

    def run(self, folder: Path) -> Record:
        """Runs what is not yet in the ledger in this folder; all that is then on record."""
        ledger = self.opened(folder)
        try:
            added = self.settings.trials > ledger.settings.trials
            if not ledger.finished:
                self.run_rounds(ledger)
            elif not added:
                finished = "was finished already; it is only drawn again."
                self.progress.say(f"The race in {self.named} {finished}")
            if added:
                ledger.add_tuning(self.settings.trials, machine())
                self.run_rounds(ledger)
            record = ledger.read()
        except BaseException:
            ledger.withdraw()
            raise
        ledger.close()
        return replace(record, folder=self.named)

    def opened(self, folder: Path) -> Ledger:
        """The ledger, with the configurations that are tried first of all."""
        untuned = [as_it_stands(one) for one in self.field if not one.space]
        first = [*self.search(self.settings).first_points, *untuned]
        for one in first:
            self.subject.check_recipe(Recipe.from_toml(one.recipe))
        return Ledger.open(folder, self.settings, first, machine(), self.command)

    def search(self, settings: Settings) -> Search:
        return Search(self.field, settings, self.subject.cooled(self.field))

    def run_rounds(self, ledger: Ledger) -> None:
        """Says what is special about the race, plans it, and runs what is left of it."""
        settings = ledger.settings
        search = self.search(settings)
        self.tell(ledger)
        plan = ledger.plan
        if plan is None:
            plan = self.plan(ledger, search.sizes)
        else:
            self.progress.say(f"Going on in {self.named}, where {ledger.trained} members are done.")
        plan_file.write(plan, ledger.folder / "plan.toml")
        Rounds(
            self.subject, settings, self.field, search, ledger, self.progress, plan, self.timeout
        ).run()

    def tell(self, ledger: Ledger) -> None:
        """Says what a reader should know of what races, and notes it for the verdict.

        What a name stands for is listed elsewhere, and what is not tuned is in the verdict.
        """
        notes = [*self.subject.notes(self.field, begun=ledger.plan is not None), *alike(self.field)]
        about = {one.name: told(one, self.settings.cooling) for one in self.field}
        own = [about[one.name] for one in self.field if one.space and not by_name(one)]
        ledger.add_notes([*notes, *own])
        for line in (*notes, *about.values(), *beside_baseline(self.settings)):
            self.progress.say(line)

    def plan(self, ledger: Ledger, tuning: Sequence[int]) -> Plan:
        """Measures how members are best stepped and what the race will cost, and says so.

        tuning: the members of each stage of the tuning round.
        """
        settings = ledger.settings
        recipes = {one.key: Recipe.from_toml(one.recipe) for one in ledger.configurations()}
        members = [*tuning, *most_final_members(len(self.field), settings.seeds)]
        # A block with fewer members is filled up to its width, which takes memory.
        filled = replace(settings, width=min(settings.width, max(members)))
        plan = self.subject.plan(list(recipes.values()), filled, members, self.timeout)
        costs: list[Cost] = []
        with suppress(Exception):  # of a model that cannot be made now, nothing is known
            as_they_come = {one.name: recipes[one.name, 0] for one in self.field}
            costs = self.subject.costs(as_they_come, self.timeout)
        ledger.add_costs(costs, plan)
        for line in (plan.why, cost.announcement(plan.seconds), cost.outlook(settings)):
            self.progress.say(line)
        return plan
