"""Work in processes of its own: what is raised, killed or silent for too long ends alone."""
