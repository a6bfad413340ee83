"""Samples from files to batches: tables, columns, roles; imports the chat folder."""
