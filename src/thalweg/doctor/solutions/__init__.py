"""Comparing the solutions to which different seeds lead."""
