"""The commands over all floors: runs, search, ablation, continual alignment, SLURM."""
