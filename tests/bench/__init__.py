"""Figures against a peer: `python -m tests.bench`, as an unprivileged user. No tests."""
