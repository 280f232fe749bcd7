"""Tests of the documentation: its code blocks, links, pictures, and what it says about the code."""
