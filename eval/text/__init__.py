"""What a text is, whoever wrote it: its language, its writing systems, what it says in earnest;
imports nothing of the project."""
