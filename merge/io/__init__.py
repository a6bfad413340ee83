"""Model folders, patch directories and delta files, read and written tensor by tensor; imports
only common/ and kernels/."""
