"""Stores on object storage: a working folder, which is an ordinary store, and the bucket that it shares with other machines."""
