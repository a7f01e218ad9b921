"""Remedies, and trials that show whether they help."""
