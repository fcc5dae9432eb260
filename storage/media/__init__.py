"""Clips: what a file holds, its sound as 16 kHz mono, a few of its frames, and child processes that do the work."""
