"""The refusal margin of prompts and the divergence of models, by forward passes alone; imports
the answering."""
