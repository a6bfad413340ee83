"""Runs as jobs of a SLURM cluster: settings, submission, status; imports the run."""
