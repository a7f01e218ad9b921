"""Settings for all tests, and for the processes that they start."""

from __future__ import annotations

import os

# The tensors are small and two tests run side by side: threads would only wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
