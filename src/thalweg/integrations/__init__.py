"""Other training loops, with what a recipe needs of them."""
