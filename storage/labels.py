"""One label table: (dataset, label as the release spells it) -> one of EMOTIONS, or None.

Knows nothing of file formats or of where labels come from; an unknown spelling is an error, never a silent
"neutral".
"""

from __future__ import annotations

from storage.errors import InputError
from storage.settings import LabelPolicy

MULTIDIALOG = {
    "angry": "angry",
    "disgusting": "disgust",
    "fear": "fearful",
    "happy": "happy",
    "neutral": "neutral",
    "sad": "sad",
    "surprising": "surprise",
}
TOPICAL_CHAT = {
    "angry": "angry",
    "disgusted": "disgust",
    "fearful": "fearful",
    "happy": "happy",
    "neutral": "neutral",
    "sad": "sad",
    "surprised": "surprise",
}
# GoEmotions in its Ekman grouping uses the same seven words as MELD.
EKMAN = {
    "anger": "angry",
    "disgust": "disgust",
    "fear": "fearful",
    "joy": "happy",
    "neutral": "neutral",
    "sadness": "sad",
    "surprise": "surprise",
}
IEMOCAP = {
    "ang": "angry",
    "dis": "disgust",
    "fea": "fearful",
    "hap": "happy",
    "neu": "neutral",
    "sad": "sad",
    "sur": "surprise",
    "oth": None,
    "xxx": None,
}
RAVDESS = {
    "01": "neutral",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprise",
}
# The acted emotion in the file's name, and the letters of the votes.
CREMA_D = {
    "ang": "angry",
    "dis": "disgust",
    "fea": "fearful",
    "hap": "happy",
    "neu": "neutral",
    "sad": "sad",
    "a": "angry",
    "d": "disgust",
    "f": "fearful",
    "h": "happy",
    "n": "neutral",
    "s": "sad",
}
LABELS: dict[str, dict[str, str | None]] = {
    "multidialog": MULTIDIALOG,
    "topical_chat": TOPICAL_CHAT,
    "meld": EKMAN,
    "iemocap": IEMOCAP,
    "ravdess": RAVDESS,
    "crema_d": CREMA_D,
    "goemotions": EKMAN,
}
"""Lower-case spelling -> target, per dataset, without the spellings that are a matter of policy."""


class LabelError(InputError):
    """A label that the table does not know; the message names the place."""


def label_table(dataset: str, policy: LabelPolicy) -> dict[str, str | None]:
    """The whole table of one dataset, policy spellings included. LabelError: an unknown dataset."""
    if dataset not in LABELS:
        raise LabelError(f"no label table for dataset {dataset!r}; known: {', '.join(sorted(LABELS))}")
    table = dict(LABELS[dataset])
    if dataset == "iemocap":
        table["exc"] = policy.iemocap_excited
        table["fru"] = policy.iemocap_frustrated
    elif dataset == "ravdess":
        table["02"] = policy.ravdess_calm
    elif dataset == "topical_chat":
        table["curious to dive deeper"] = policy.topical_chat_curious
    return table


def target_emotion(dataset: str, raw: str, where: str, policy: LabelPolicy | None = None) -> str | None:
    """The target emotion of a raw label, or None where the label has no target (the turn is context only).

    `where` names file and line for the message of LabelError, which an unknown spelling raises. Spelling is
    compared without case and outer blanks.
    """
    table = label_table(dataset, policy or LabelPolicy())
    spelling = raw.strip().lower()
    if spelling not in table:
        raise LabelError(
            f"{where}: unknown {dataset} emotion {raw!r}; known: {', '.join(sorted(table))}; "
            "correct the file or add the spelling to storage/labels.py"
        )
    return table[spelling]
