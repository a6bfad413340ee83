"""What the loss of a patch is, and the terms beside it; imports data and the DeepSpeed side."""
