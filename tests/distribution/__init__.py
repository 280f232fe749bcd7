"""Tests of the sdist and the wheel: what they contain, what PyPI shows, and that an installation works."""
