"""What the tests share that end processes, or interrupt them, at every step of an operation."""
