"""Rates with intervals, paired tests, ROC curves, and how files hold them; imports only texts."""
