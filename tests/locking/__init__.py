"""Tests of the mutex."""
