"""Tests of named shared memory."""
