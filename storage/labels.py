"""From a label as a release spells it to one of the seven emotions, or to none: the table of one dataset.

Each reader keeps its own table beside its code. Knows nothing of file formats or of which datasets there are; an
unknown spelling is an error, never a silent "neutral".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from storage.errors import InputError
from storage.settings import LabelPolicy

EKMAN: Mapping[str, str] = {
    "anger": "angry",
    "disgust": "disgust",
    "fear": "fearful",
    "joy": "happy",
    "neutral": "neutral",
    "sadness": "sad",
    "surprise": "surprise",
}
"""The words of MELD, and of GoEmotions in its Ekman grouping."""


class LabelError(InputError):
    """A label that no table knows; the message names the place, and the setting that gives it a target.

    spelling: as `data.labels.map` takes it.
    """

    def __init__(self, message: str, spelling: str):
        super().__init__(message, spelling)  # both, so that it crosses between processes
        self.spelling = spelling

    def __str__(self) -> str:
        return self.args[0]


def none_by_choice(policy: LabelPolicy) -> dict[str, str | None]:
    """For a dataset whose labels all have one target each."""
    return {}


@dataclass(frozen=True)
class LabelTable:
    """Lower-case spelling -> one of EMOTIONS, or None where a label has no target (the turn is context only).

    by_choice: the spellings whose target is a setting.
    """

    dataset: str
    plain: Mapping[str, str | None]
    by_choice: Callable[[LabelPolicy], dict[str, str | None]] = none_by_choice

    def spellings(self, policy: LabelPolicy) -> dict[str, str | None]:
        """The whole table under a policy."""
        return {**self.plain, **self.by_choice(policy)}

    def target(self, raw: str, where: str, policy: LabelPolicy | None = None) -> str | None:
        """The target of a raw label, compared without case and outer blanks; `policy.map` goes before the table.

        `where` names file and line for the message of LabelError, which an unknown spelling raises.
        """
        policy = policy or LabelPolicy()
        table = self.spellings(policy)
        spelling = raw.strip().lower()
        for name in (f"{self.dataset}/{spelling}", spelling):
            if name in policy.map:
                return policy.map[name]
        if spelling not in table:
            raise LabelError(
                f"{where}: unknown {self.dataset} emotion {raw[:80]!r}; known: {', '.join(sorted(table))}; correct "
                "the file, or give it one of the seven emotions, or null, by the setting data.labels.map: "
                f"--set 'data.labels.map={json.dumps({spelling[:80]: 'neutral'})}'",
                spelling,
            )
        return table[spelling]
