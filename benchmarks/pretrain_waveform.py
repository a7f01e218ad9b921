"""Whether low frequencies first rescue the inversion of seismograms from local minima.

    python benchmarks/pretrain_waveform.py

The `waveform` task from 100 starts, with Adam: at 12 Hz from the beginning, at each of three
learning rates, and with the same number of gradient evaluations in all by its curriculum (3 Hz,
6 Hz, 12 Hz), at one. A solution is good when the misfit of shots that were not trained on is at
most the task's target. The rates were chosen on other starts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from machine import save
from thalweg import recipes
from thalweg.stack.member import Member
from thalweg.statistics import wilson
from thalweg.tasks import find
from thalweg.training.train import train_members

TASK = find("waveform")
STARTS = range(1000, 1100)
LRS_WITHOUT = (0.03, 0.06, 0.1)
LR_WITH = 0.03
WIDTH = 25


def row(way: str, lr: float, pretrain: str | None = None) -> dict[str, Any]:
    """The share of good solutions with its 95 % interval, and all misfits in order."""
    assert TASK.target is not None
    recipe = replace(recipes.adam(lr=lr), pretrain=pretrain)
    members = [Member(recipe, start) for start in STARTS]
    misfits = [run.score for run in train_members(TASK, members, width=WIDTH)]
    good = wilson(sum(misfit <= TASK.target for misfit in misfits), len(misfits))
    print(f"{way:<24} lr {lr:<5g} {good.estimate:.0%} ({good.low:.0%} to {good.high:.0%})")
    return {
        "way": way,
        "lr": lr,
        "good": {"share": good.estimate, "low": good.low, "high": good.high},
        "misfits": sorted(misfits),
    }


def main() -> None:
    print(f"share of good solutions over {len(STARTS)} starts (95 % Wilson interval)")
    rows = [row("12 Hz alone", lr) for lr in LRS_WITHOUT]
    rows.append(row("3 Hz, 6 Hz, then 12 Hz", LR_WITH, "by task"))
    budget = {"gradient_evaluations_a_start": TASK.steps, "good_misfit": TASK.target}
    print(f"written to {save('pretrain_waveform', {**budget, 'ways': rows})}")


if __name__ == "__main__":
    main()
