"""The model of the mutex, and the test that checks it."""
