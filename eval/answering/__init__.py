"""How a model is asked: batches, backends, decoding, and answers that survive an interruption;
imports the suites."""
