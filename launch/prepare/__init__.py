"""What comes before the trainings: data harvested and checked, openings of refusals, models
converted."""
