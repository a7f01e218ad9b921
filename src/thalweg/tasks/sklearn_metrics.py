"""The metrics of scikit-learn as metrics of a task.

They take the targets first, NumPy's arrays, and often labels where a model gives a score for each
class.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

OF_LABELS = {
    "accuracy_score",
    "balanced_accuracy_score",
    "cohen_kappa_score",
    "f1_score",
    "fbeta_score",
    "hamming_loss",
    "jaccard_score",
    "matthews_corrcoef",
    "precision_score",
    "recall_score",
    "zero_one_loss",
}
"""The functions that take labels. A model's are the classes with the highest outputs; of a model
with one output, see `labels_of`.
"""

OF_ONE_SCORE = {"average_precision_score", "roc_auc_score"}
"""The functions that take one score for the second of two classes."""


def from_sklearn(score: Callable[..., Any]) -> Callable[..., Any]:
    """The score; if it is a function of scikit-learn, as `score(outputs, targets)`.

    Options may be given by `functools.partial`.
    """
    name = name_of(score)
    return score if name is None else partial(scored, score, name)


def name_of(score: Callable[..., Any]) -> str | None:
    """The name of a function of `sklearn.metrics`; None for anything else."""
    while isinstance(score, partial):
        score = score.func
    module = getattr(score, "__module__", None) or ""
    return getattr(score, "__name__", None) if module.startswith("sklearn.metrics") else None


def scored(score: Callable[..., Any], name: str, outputs: Any, targets: Any) -> Any:
    """The score of scikit-learn's function for a model's outputs."""
    truth, found = as_array(targets), as_array(outputs)
    if found.ndim == 2 and found.shape[1] == 1 and truth.ndim == 1:
        found = found[:, 0]
    if name in OF_LABELS and found.dtype.kind == "f":
        found = labels_of(found) if found.ndim == truth.ndim else found.argmax(1)
    if name in OF_ONE_SCORE and found.ndim == 2 and found.shape[1] == 2 and truth.ndim == 1:
        found = found[:, 1] - found[:, 0]
    return score(truth, found)


def labels_of(found: Array) -> Array:
    """The labels 0 and 1 of one output for each sample: above 0.5 for probabilities, else above 0.

    Outputs are probabilities if all of them lie from 0 to 1.
    """
    is_probability = found.min(initial=0) >= 0 and found.max(initial=1) <= 1
    labels: Array = (found > (0.5 if is_probability else 0)).astype(int)
    return labels


def as_array(x: Any) -> Array:
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
