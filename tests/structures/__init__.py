"""Tests of what a segment is divided into."""
