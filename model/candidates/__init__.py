"""Candidates for counter-emotional replies: what is asked of the LLM and which answers are usable."""
