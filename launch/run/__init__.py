"""One run: its folder, its stages, and the way through them; imported by what consists of runs."""
