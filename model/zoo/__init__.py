"""Weights by name: what a profile may name, where it comes from, and the local folder it becomes.

Knows nothing of models in use, of stages, of settings other than its own; imports no torch.
"""
