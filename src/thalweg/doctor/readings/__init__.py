"""The readings: what instruments measure at one step of a training, each with its error."""
