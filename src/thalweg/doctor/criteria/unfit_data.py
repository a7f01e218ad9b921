"""The data: inputs of unequal scale, and samples that are not shuffled."""

from __future__ import annotations

from thalweg.doctor.criteria import names
from thalweg.doctor.criteria.criterion import Fact, Suspicion, criterion, exactly
from thalweg.doctor.readings.inputs import Inputs
from thalweg.doctor.readings.order import Order
from thalweg.doctor.trials import remedies
from thalweg.doctor.watch.history import Case

UNEQUAL, OFFSET, SIZES = 30.0, 10.0, (1e-2, 30.0)
"""Alarm where the ratio of the largest size to the smallest reaches the first limit, where a mean
in standard deviations reaches the second, or where the typical size lies outside of the third."""

NOT_BY_CHANCE = 1e-6
"""Alarm where shuffled batches would differ as much with a smaller probability than this."""


@criterion(20)
def unscaled(case: Case) -> Suspicion | None:
    """The input features have very unequal sizes, lie far from 0, or are very large or small."""
    found = case.history.last(Inputs)
    if found is None:
        return None
    step, seen = found
    low, high = SIZES
    if seen.unequal < UNEQUAL and seen.offset < OFFSET and low < seen.size < high:
        return None
    return Suspicion(
        names.UNSCALED,
        sentence=f"The inputs are not scaled: a typical feature has the size {seen.size:.2g}, the"
        f" largest is {seen.unequal:.2g} times as large as the smallest, and the mean of one"
        f" feature lies {seen.offset:.2g} standard deviations from 0.",
        prescription="inputs of mean 0 and standard deviation 1, or batch normalization",
        standing="The curvature along the weights of a feature is proportional to the square of"
        " the feature's size (LeCun et al. 1998, 5.1). The limits are a convention, so the trial"
        " decides.",
        facts=(
            Fact("largest over smallest feature", exactly(seen.unequal), step),
            Fact("median size of a feature", exactly(seen.size), step),
            Fact("largest mean in standard deviations", exactly(seen.offset), step),
        ),
        remedies=remedies.standardizing(list(case.history.batches)),
        explains=(
            *(names.CLIFFS, names.DEAD_UNITS, names.NARROW_VALLEY),
            *(names.VANISHING, names.EXPLODING, *names.UNSTEADY),
        ),
    )


@criterion(10)
def unshuffled(case: Case) -> Suspicion | None:
    """The targets within a batch are more alike than the targets of shuffled samples can be."""
    found = case.history.last(Order)
    if found is None or found[1].p > NOT_BY_CHANCE:
        return None
    step, seen = found
    return Suspicion(
        "samples are not shuffled",
        sentence=f"{seen.share:.0%} of the variance of the targets lies between the last"
        f" {seen.batches} batches. The probability of this with shuffled samples is"
        f" {seen.p:.0e}.",
        prescription="shuffle the samples anew in every epoch",
        standing="The analysis of variance and the chi-square test of the targets by batch are"
        " sound.",
        facts=(Fact("share of the variance between batches", exactly(seen.share), step),),
        remedies=(remedies.SHUFFLED,),
        since=step,
        proven=True,
        explains=(names.CLIFFS, *names.UNSTEADY),
    )
