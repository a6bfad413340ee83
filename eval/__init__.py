"""The evaluation: suites, generation, judges, statistics, and the three-axis report."""
