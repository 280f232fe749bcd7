"""Tests of the group store."""
