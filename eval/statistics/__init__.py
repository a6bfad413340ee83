"""Rates with intervals, paired tests, ROC curves: pure functions; imports only texts."""
