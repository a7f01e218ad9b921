"""The findings about a training: what is wrong, which remedies help, and the text of it all."""
