"""SafeSwitch (arXiv 2502.01042): what it learns, and how it decodes."""
