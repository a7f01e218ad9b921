"""What the verbs show while they run: live on a terminal, plain lines elsewhere."""
