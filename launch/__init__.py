"""The top floor: recipes, the pipeline on one machine, search over merges, the demo world."""
