"""The solutions that different seeds come to, compared."""
