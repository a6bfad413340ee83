"""What a merge says of itself: merge.json, the model card, what rounding erased; imports the
engine."""
