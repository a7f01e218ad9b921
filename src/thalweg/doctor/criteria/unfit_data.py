"""The data: inputs of unequal scale, and samples that are not shuffled."""

from __future__ import annotations

from thalweg.doctor.criteria.suspicion import Fact, Suspicion, exactly
from thalweg.doctor.trials import remedies
from thalweg.doctor.watch.course import Case

UNEQUAL, OFFSET, SIZES = 30.0, 10.0, (1e-2, 30.0)
NOT_BY_CHANCE = 1e-6


def unscaled(case: Case) -> Suspicion | None:
    """Features of very unequal size, far from 0, or all very large or very small."""
    found = case.course.last("inputs")
    if found is None:
        return None
    step, seen = found
    low, high = SIZES
    if seen.unequal < UNEQUAL and seen.offset < OFFSET and low < seen.size < high:
        return None
    return Suspicion(
        "unscaled inputs",
        f"The inputs are not scaled: a typical feature has size {seen.size:.2g}, the largest"
        f" {seen.unequal:.2g} times that of the smallest, and the mean of one lies"
        f" {seen.offset:.2g} deviations from 0.",
        "inputs of mean 0 and deviation 1, or batch normalization",
        "The curvature along a feature's weights goes with its square (LeCun et al. 1998, 5.1);"
        " where the lines are drawn is a convention, so the trial decides.",
        tuple(
            Fact(what, exactly(value), step)
            for what, value in (
                ("largest over smallest feature", seen.unequal),
                ("median size of a feature", seen.size),
                ("largest mean in deviations", seen.offset),
            )
        ),
        remedies=remedies.standardizing(list(case.course.batches)),
        explains=(
            "narrow valley",
            "divergence",
            "learning rate too high",
            "learning rate too low",
            "dead units",
            "cliffs",
            "noise",
            "vanishing signals",
            "exploding signals",
        ),
    )


def unshuffled(case: Case) -> Suspicion | None:
    """The targets of a batch are more alike than those of shuffled samples can be."""
    found = case.course.last("order")
    if found is None or found[1].p > NOT_BY_CHANCE:
        return None
    step, seen = found
    return Suspicion(
        "samples are not shuffled",
        f"{seen.share:.0%} of the variance of the targets lies between the last {seen.batches}"
        f" batches; shuffled samples would differ so much with a chance of {seen.p:.0e}.",
        "shuffle the samples anew in every epoch",
        "Analysis of variance or the chi-square test of the targets by batch: sound.",
        (Fact("share of the variance between batches", exactly(seen.share), step),),
        remedies=(remedies.SHUFFLED,),
        since=step,
        proven=True,
        explains=(
            "divergence",
            "noise",
            "cliffs",
            "learning rate too high",
            "learning rate too low",
        ),
    )
