"""The ground floor: tensor files, patch directories, selection, and the streaming merger."""
