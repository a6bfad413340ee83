"""The text of a batch script, from the cluster part of a recipe; only submissions import it."""
