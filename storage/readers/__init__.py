"""Readers of the raw releases: one module per dataset, and `find`, which knows them all."""
