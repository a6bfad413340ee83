"""Judges that are models, each described by a small YAML file; they import `answering`."""
