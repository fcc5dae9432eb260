"""The bundled sample corpus: original dialogues, a procedural actor, and writers of the raw trees.

Knows nothing of readers, shards, stages or models.
"""
