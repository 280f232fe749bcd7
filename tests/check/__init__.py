"""Tests of the integrity check."""
