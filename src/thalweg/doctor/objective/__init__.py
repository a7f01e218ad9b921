"""What instruments measure: the loss of a model on fixed batches, and its derivatives."""
