"""What instruments are pointed at: the loss of a model on fixed batches, and its derivatives."""
