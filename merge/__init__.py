"""The ground floor, without PyTorch: the streaming merger and its commands; imports no other
floor."""
