"""Which jobs a run has, and which of them SLURM still has; imported by what submits and shows."""
