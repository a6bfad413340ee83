"""The report's pictures, by matplotlib; imported by the report, and by the search and the
ablation."""
