"""Watching a training: when instruments are read, how much time they take, and what they read."""
