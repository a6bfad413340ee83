"""What a text is, whoever wrote it: language, writing system, form, what it says in earnest;
imports nothing of the project."""
