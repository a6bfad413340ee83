"""One merge: inputs checked, sets selected, slices merged, output files written; imported by the
merger's commands."""
