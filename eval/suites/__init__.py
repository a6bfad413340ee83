"""Suites of prompts: their files, how they are read, and the form of a prompt; imports no other
folder of the evaluation."""
