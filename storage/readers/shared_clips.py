"""Clips that several rows show: none is both learned from and tested on.

Knows nothing of datasets, nor of what tells two clips apart.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

from storage.utterance import SPLITS, Reject, Utterance


def part_shared_clips(
    utterances: Sequence[Utterance],
    shows: Callable[[Utterance], Sequence[Hashable]],
    same_as: Callable[[Utterance], str],
) -> tuple[list[Utterance], list[Reject]]:
    """The utterances in their order, and a line for each whose clip another one shows too.

    Of two splits the one less used for testing loses the clip: test keeps it before dev, and dev before train. Within a
    split both keep it and are flagged. shows(u): what its clip shows, by what tells clips apart; empty: it is left
    alone. same_as(owner): how a line names the utterance that keeps the clip.
    """
    owners: dict[Hashable, Utterance] = {}
    parted: dict[tuple, Utterance] = {}
    defects = []
    for u in sorted(utterances, key=lambda u: (-SPLITS.index(u.split), u.key)):
        twins = [owner for owner in [owners.setdefault(what, u) for what in shows(u)] if owner is not u]
        parted[u.key] = u
        if not twins:
            continue
        if any(twin.split != u.split for twin in twins):
            reason, what = "clip_in_two_splits", "withdrawn"
            parted[u.key] = replace(u, video_path=None, audio_path=None, media_digest=None)
        else:
            reason, what = "repeated_clip", "flagged"
        defects.append(Reject(*u.key, reason=reason, detail=f"{what}: {same_as(twins[0])}"))
    return [parted[u.key] for u in utterances], defects
