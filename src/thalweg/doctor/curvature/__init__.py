"""Second derivatives of an objective, and what can be read from them."""
