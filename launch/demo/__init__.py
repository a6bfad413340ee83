"""The invented little world of the demo: a language, its data, an imperfectly aligned backbone."""
