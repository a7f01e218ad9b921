"""Whether a change is better, or only the seed."""
