"""A stage function that says which GPUs its process sees. For tests of who holds which."""

import os

from storage.store import Ref
from tasks.engine.item import Workspace


def show(work: Workspace) -> list[Ref]:
    """One artefact, called after them."""
    return [Ref(name=os.environ.get("CUDA_VISIBLE_DEVICES", "none"), digest="0" * 32, size=0)]
