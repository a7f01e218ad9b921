"""Remedies, and whether they help from the state where the trouble is."""
