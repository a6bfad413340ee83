"""Rates with intervals, paired tests, ROC curves: pure functions; imports nothing of the
project."""
