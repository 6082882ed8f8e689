"""The benchmark harness: what it refuses to time, what it concludes, and that every command of `make gpu` runs."""
