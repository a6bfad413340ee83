"""Models that are in memory once and take on merge after merge: by transformers, or by vLLM."""
