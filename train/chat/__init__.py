"""Chat templates: from a question and an answer to token ids, and back to the plain answer;
imports no other folder of the training."""
