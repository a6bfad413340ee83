"""Patch derivation: two full-parameter patches and their importance, on DeepSpeed ZeRO-3."""
