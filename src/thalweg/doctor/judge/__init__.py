"""Findings of a training: what is wrong, what was tried against it, and how that is said."""
