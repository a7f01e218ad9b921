"""A training watched on its way: when it is looked at, for how much time, and what was seen."""
