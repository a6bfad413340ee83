"""Which part of the method carries the effect: the variants of a run, side by side; imports the
run."""
