"""The values of a rule's arithmetic."""

from __future__ import annotations

from typing import Any

Value = Any
"""A number, which is the same for all elements of a tensor in a step, or a tensor of elements."""
