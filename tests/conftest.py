"""For every test: threads that wait sleep, so that tests beside other work do not crawl."""

import os

# Before PyTorch is imported; see launch/__main__.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
