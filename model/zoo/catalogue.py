"""The weights that profiles may name, read from catalogue.toml.

Knows nothing of how weights are fetched, converted or loaded, and imports no torch.
"""

import tomllib
from pathlib import Path

from model.zoo.settings import WeightSource

FILE = Path(__file__).with_name("catalogue.toml")
"""Data and no code, so that a stage's key holds the identity of its own weights and none of the others'."""


def read_catalogue(text: str) -> dict[str, WeightSource]:
    """Sources by name. ValueError for a name that stands twice: the second would hide the first."""
    found: dict[str, WeightSource] = {}
    for entry in tomllib.loads(text)["weights"]:
        source = WeightSource(**entry)
        if source.name in found:
            raise ValueError(f"{FILE.name}: {source.name} stands there twice; give one of them another name")
        found[source.name] = source
    return found


CATALOGUE = read_catalogue(FILE.read_text(encoding="utf-8"))
