"""The answer of a comparison, with its evidence."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from thalweg.comparing import words
from thalweg.comparing.looks import Looks
from thalweg.comparing.scores import Answer, Scores
from thalweg.comparing.sides import Outcome
from thalweg.comparing.steps import steps_saved
from thalweg.statistics import Comparison
from thalweg.wording import counted

STATUS: dict[Answer, int] = {
    "better": 0,
    "worse": 1,
    "no difference worth the margin": 3,
    "cannot tell": 4,
}
"""The exit status of each answer; 2 is bad input."""


@dataclass(frozen=True)
class Compared:
    """A comparison, finished or stopped.

    answer: whether new is better or worse than old. sentence: the answer with its size. advice:
        what would decide an open comparison. limits: what the evidence cannot show.
    scores: the scores of both sides. found: the gain of new, in units of the metric, positive if
        new is better; None before the first look. saved: the steps that new saves, if both sides
        report curves. folder: the folder that keeps the comparison; None for given scores.
    """

    answer: Answer
    sentence: str
    advice: tuple[str, ...]
    limits: tuple[str, ...]
    scores: Scores
    margin: float | None = None
    found: Comparison | None = None
    saved: Comparison | None = None
    folder: Path | None = None

    @property
    def status(self) -> int:
        """The exit status: 0 better, 1 worse, 3 no difference worth the margin, 4 cannot tell."""
        return STATUS[self.answer]

    def __str__(self) -> str:
        lines = [self.sentence, *self.advice]
        return "\n".join([*lines, *(f"- {limit}" for limit in self.limits)])

    def to_json(self) -> str:
        """The answer and the scores as JSON. A number that is not finite is null."""
        told = {
            "answer": self.answer,
            "status": self.status,
            "sentence": self.sentence,
            "advice": self.advice,
            "limits": self.limits,
            "names": self.scores.names,
            "metric": self.scores.metric,
            "direction": self.scores.direction,
            "margin": self.margin,
            "gain": flat(self.found),
            "steps_saved": flat(self.saved),
            "old": [held(score) for score in self.scores.old],
            "new": [held(score) for score in self.scores.new],
            "folder": str(self.folder) if self.folder else None,
        }
        return json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False)


def of_pairs(
    scores: Scores,
    outcomes: tuple[Sequence[Outcome], Sequence[Outcome]],
    level: float,
    plan: Looks,
    margin: float | None,
    folder: Path,
) -> Compared:
    """The answer after the last look. level: the level of that look, 0 if there was none."""
    limits = tuple(words.failed(dict(zip(scores.names, outcomes, strict=True))))
    if level == 0 and not scores.futile:
        done = counted(len(scores.old), "pair")
        sentence = f"It cannot be told yet: {done} of {plan.after(0)} for a first look are done."
        further = ("The same command goes on.",)
        return Compared("cannot tell", sentence, further, limits, scores, margin, folder=folder)
    level = level or plan.alpha / 2
    saved = steps_saved(*outcomes, scores.direction, level)
    return judged(scores, level, plan, margin, limits, saved, folder)


def of_scores(scores: Scores, alpha: float, margin: float | None) -> Compared:
    """The answer from given scores, by one look at all of them."""
    plan = Looks(alpha, (len(scores.old),))
    limits = () if scores.paired else (words.UNPAIRED,)
    answer = judged(scores, alpha / 2, plan, margin, limits)
    few = words.too_few(scores, alpha)
    return replace(answer, advice=(few,)) if few else answer


def judged(
    scores: Scores,
    level: float,
    plan: Looks,
    margin: float | None,
    limits: tuple[str, ...],
    saved: Comparison | None = None,
    folder: Path | None = None,
) -> Compared:
    """The answer at a one-sided level, with its sentences."""
    answer, found = scores.answer(level, margin), scores.compared(level)
    sentence = words.said(scores, answer, found, margin)
    if saved and answer in ("better", "worse") and math.isfinite(saved.estimate):
        sentence += " " + words.steps_in_words(scores, saved)
    open_still = answer == "cannot tell"
    further = words.advice(scores, found, plan, margin, folder is not None) if open_still else ()
    return Compared(answer, sentence, tuple(further), limits, scores, margin, found, saved, folder)


def held(value: float) -> float | None:
    return value if math.isfinite(value) else None


def flat(found: Comparison | None) -> dict[str, float | None] | None:
    if found is None:
        return None
    names = ("estimate", "low", "high", "confidence", "p", "p_worse", "n", "wins", "ties")
    return {name: held(getattr(found, name)) for name in names}
