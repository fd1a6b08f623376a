"""What the tests share, each thing once; ``tests/`` is on their path (setup.cfg)."""
