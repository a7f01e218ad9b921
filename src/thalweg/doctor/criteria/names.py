"""The names of those findings that can be symptoms of other findings."""

from __future__ import annotations

CLIFFS = "cliffs"
DEAD_UNITS = "dead units"
DIVERGENCE = "divergence"
EXPLODING = "exploding signals"
NARROW_VALLEY = "narrow valley"
NOISE = "noise"
RATE_TOO_HIGH = "learning rate too high"
RATE_TOO_LOW = "learning rate too low"
SADDLE = "saddle"
UNSCALED = "unscaled inputs"
VANISHING = "vanishing signals"

UNSTEADY = (DIVERGENCE, NOISE, RATE_TOO_HIGH, RATE_TOO_LOW)
"""The findings of a training whose steps go in wrong directions, whatever the cause is."""
