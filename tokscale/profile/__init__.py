"""Measured time to the first token, throughput, memory and operations: `profile` returns a `Profile`."""

from .result import Profile
from .run import profile

__all__ = ["Profile", "profile"]
