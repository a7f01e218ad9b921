"""What a race runs on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import torch


def machine() -> dict[str, str]:
    """What the runs are made on, for the reader of the record."""
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "thalweg": version("thalweg"),
    }
