"""thalweg: race optimizers on your own task, see why one wins, train with the winner."""
