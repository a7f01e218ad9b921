"""Showing the verbs while they run: live on a terminal, and plain lines elsewhere."""
