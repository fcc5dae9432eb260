"""The weights that profiles may name, read from catalogue.toml.

Knows nothing of how weights are fetched, converted or loaded, and imports no torch.
"""

import tomllib
from pathlib import Path

from model.zoo.settings import WeightSource

FILE = Path(__file__).with_name("catalogue.toml")
"""Data and no code, so that a stage's key holds the identity of its own weights and none of the others'."""

CATALOGUE: dict[str, WeightSource] = {
    entry["name"]: WeightSource(**entry)
    for entry in tomllib.loads(FILE.read_text(encoding="utf-8"))["weights"]
}
