"""One run: its folder, its trainings and evaluations, and what a stage of it is; imported by what
does the stages' work."""
