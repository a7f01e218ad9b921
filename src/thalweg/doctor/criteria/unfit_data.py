"""The data: inputs of unequal scale, and samples that are not shuffled."""

from __future__ import annotations

from thalweg.doctor.criteria import names
from thalweg.doctor.criteria.criterion import Fact, Suspicion, criterion, exactly
from thalweg.doctor.readings.inputs import Inputs
from thalweg.doctor.readings.order import Order
from thalweg.doctor.trials import remedies
from thalweg.doctor.watch.course import Case

UNEQUAL, OFFSET, SIZES = 30.0, 10.0, (1e-2, 30.0)
"""Alarm from this ratio of sizes on, from this mean in deviations on, and outside these sizes."""

NOT_BY_CHANCE = 1e-6
"""Alarm below this chance that shuffled batches differ as much."""


@criterion(20)
def unscaled(case: Case) -> Suspicion | None:
    """The features are of very unequal size, far from 0, or all very large or very small."""
    found = case.course.last(Inputs)
    if found is None:
        return None
    step, seen = found
    low, high = SIZES
    if seen.unequal < UNEQUAL and seen.offset < OFFSET and low < seen.size < high:
        return None
    return Suspicion(
        names.UNSCALED,
        sentence=f"The inputs are not scaled: a typical feature has size {seen.size:.2g}, the"
        f" largest is {seen.unequal:.2g} times as large as the smallest, and the mean of one lies"
        f" {seen.offset:.2g} deviations from 0.",
        prescription="inputs of mean 0 and deviation 1, or batch normalization",
        standing="The curvature along a feature's weights goes with the square of its size (LeCun"
        " et al. 1998, 5.1). The limits are a convention, so the trial decides.",
        facts=(
            Fact("largest over smallest feature", exactly(seen.unequal), step),
            Fact("median size of a feature", exactly(seen.size), step),
            Fact("largest mean in deviations", exactly(seen.offset), step),
        ),
        remedies=remedies.standardizing(list(case.course.batches)),
        explains=(
            *(names.CLIFFS, names.DEAD_UNITS, names.NARROW_VALLEY),
            *(names.VANISHING, names.EXPLODING, *names.UNSTEADY),
        ),
    )


@criterion(10)
def unshuffled(case: Case) -> Suspicion | None:
    """The targets of a batch are more alike than those of shuffled samples can be."""
    found = case.course.last(Order)
    if found is None or found[1].p > NOT_BY_CHANCE:
        return None
    step, seen = found
    return Suspicion(
        "samples are not shuffled",
        sentence=f"{seen.share:.0%} of the variance of the targets lies between the last"
        f" {seen.batches} batches. Shuffled samples would differ as much with a chance of"
        f" {seen.p:.0e}.",
        prescription="shuffle the samples anew in every epoch",
        standing="Analysis of variance, or the chi-square test, of the targets by batch is sound.",
        facts=(Fact("share of the variance between batches", exactly(seen.share), step),),
        remedies=(remedies.SHUFFLED,),
        since=step,
        proven=True,
        explains=(names.CLIFFS, *names.UNSTEADY),
    )
