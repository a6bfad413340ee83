"""SLURM itself: its commands, its options, and what a recipe says of them; imports merge."""
