"""The training of patches on DeepSpeed ZeRO-3; imports the floor merge."""
