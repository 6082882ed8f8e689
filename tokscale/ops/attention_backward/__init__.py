"""The backward that attention and its column sums share, by Triton; no operator of its own."""
