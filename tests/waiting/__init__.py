"""Tests of waiting for messages."""
