"""A look into a pair of patches before any merge: top sets, importance, predicted effect; a
command imports it."""
