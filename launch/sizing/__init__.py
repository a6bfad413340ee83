"""What a recipe needs of memory, disk and time, before a GPU is asked for."""
