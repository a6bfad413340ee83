"""The search for the best merge on the validation part; a stage of a run imports it."""
