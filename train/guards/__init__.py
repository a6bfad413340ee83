"""When a training must end: by loss, by size of the patch, by the refusal margin."""
