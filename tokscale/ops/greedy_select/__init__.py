"""Greedy subset selection: max-min diversity, maximal marginal relevance, DPP MAP."""

from .op import GreedySelection, greedy_select

__all__ = ["GreedySelection", "greedy_select"]
