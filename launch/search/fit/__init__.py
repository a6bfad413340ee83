"""Scales of a merge that are fitted to refusal margins; only the search imports it."""
