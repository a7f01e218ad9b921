"""Runs chains of rules on tensors."""
