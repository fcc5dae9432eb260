"""Prefect: the one package of tasks that imports it. Knows nothing of what any stage does."""
