"""SLURM's own commands, and which jobs of a run are queued; imports no other part of SLURM's."""
