"""The model that a patch is made of: its folder, its tensors, what it costs; nothing here
trains."""
