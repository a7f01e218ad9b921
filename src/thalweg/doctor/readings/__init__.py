"""What instruments read of a training at one moment, each with its error."""
