"""Suites of prompts: their files, how they are read, and answers to them; imports only texts."""
