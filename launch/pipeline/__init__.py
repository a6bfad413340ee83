"""The stages of a run as one table, and what runs them on this machine; imported by what consists
of runs."""
