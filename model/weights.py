"""What tells saved weights from the model they are to be loaded into. Knows nothing of either's purpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

MOST = 5
"""Names told of each kind of difference."""


def differing_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """In words, which weights are missing, unknown, or of another shape; empty where they fit exactly."""
    return differing_tensors(model.state_dict(), weights)


def differing_tensors(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """As `differing_weights`, for tensors by name."""
    wanted = {name: tuple(value.shape) for name, value in expected.items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    both = sorted(wanted.keys() & found.keys())
    return named(
        {
            "missing": sorted(wanted.keys() - found.keys()),
            "unknown": sorted(found.keys() - wanted.keys()),
            "of another shape": [
                f"{name} {list(found[name])} for {list(wanted[name])}"
                for name in both
                if found[name] != wanted[name]
            ],
        }
    )


def named(differences: Mapping[str, Sequence[str]]) -> str:
    """Kinds of difference with the first names of each: "missing: a, b; unknown: c and 3 more"."""
    parts = []
    for kind, names in differences.items():
        more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
        parts += [f"{kind}: {', '.join(names[:MOST])}{more}"] if names else []
    return "; ".join(parts)
