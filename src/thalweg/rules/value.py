"""The values of a rule's arithmetic."""

from __future__ import annotations

from typing import Any

Value = Any
"""A tensor of elements, or a number that is the same for all elements of a tensor in a step."""
