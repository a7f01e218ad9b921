"""`python -m thalweg` is `thalweg`."""

from thalweg_command import main

main()
