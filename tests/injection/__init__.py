"""Tests that kill or interrupt a process at every step of an operation, and what they share."""
