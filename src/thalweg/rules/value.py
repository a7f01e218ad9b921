"""What a rule's arithmetic works on."""

from __future__ import annotations

from typing import Any

Value = Any
"""A number of the row, which is one for a tensor and a step, or a tensor of elements."""
