"""A run's replies -> a study's folder: conversations, their clips, the replies of up to six systems, who judges what.

Reads artefacts and raw clips; knows nothing of how replies were made, of pages or of servers.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import BaseModel, Field

from storage.answers import Reply
from storage.errors import InputError
from storage.media.web_clip import WebClip, write_web_clips
from storage.shards import read_table, row_to_utterance
from storage.store import Ref, Store
from storage.utterance import Utterance
from tasks.engine.run import RunRequest
from tasks.settings import Settings
from tasks.stages.floors import BESIDE, HUMAN
from tasks.stages.replies.rungs import LADDER, RUNGS
from tasks.stages.selection import spread
from tasks.stages.shard_names import of_table
from tasks.stages.shards import RowKey
from tasks.study.assignment import assigned, orders, shuffled
from tasks.study.power import Power
from tasks.study.replies import OF_PAIRS, chosen_systems, pair_replies, refs_of, run_replies, usual_systems
from tasks.study.study import (
    CHECK,
    COMPLETION_URL,
    FILMED,
    INSTRUCTIONS,
    SCALE,
    WRITTEN,
    Access,
    LeftOut,
    Shown,
    Study,
    StudyItem,
    Turn,
    write_study,
)

DEV_SHARE = 0.2
"""Of a study of pairs: EPO learns from train and chooses its checkpoint by dev."""
PROLIFIC_URL = "https://app.prolific.com/submissions/complete?cc="


class StudySettings(BaseModel, frozen=True, extra="forbid"):
    """How large a study is and who comes to it. Ten by ten is the paper's (section 9)."""

    participants: int = Field(10, ge=1, le=10_000)
    each: int = Field(10, ge=1, description="Conversations that each participant judges.")
    conversations: int | None = Field(
        None, ge=1, description="Different conversations; None: as many as each judges, the same for all."
    )
    systems: tuple[str, ...] = Field(
        (),
        description="Rungs, system-NAME, or human; empty: those of the ladder. Of pairs: what stands in them, or human.",
    )
    pairs: bool = Field(
        False,
        description="Of train and dev, with the replies of their preference pairs: what people choose may train EPO. Not in "
        "the paper.",
    )
    checks: int = Field(0, ge=0, description="Attention checks of each participant. Not in the paper.")
    media: bool = Field(True, description="Show clips; else text alone.")
    prolific: bool = Field(False, description="Prolific sends the participants; else each place has a link.")
    return_after_h: float = Field(
        24.0,
        gt=0,
        description="Hours without an answer after which a place that Prolific's participant took is free again.",
    )
    completion_code: str | None = Field(None, min_length=1, max_length=100)
    completion_url: str | None = Field(None, pattern=COMPLETION_URL)
    power: Power = Power()
    seed: int = 0


def make_study(
    request: RunRequest,
    folder: Path,
    settings: StudySettings,
    run: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Study:
    """Write the folder; returns the study. progress(clips made, of how many).

    InputError where the folder holds something, the run has no replies, or there are too few conversations.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty: give a new folder")
    if settings.checks > settings.each:
        raise InputError(
            f"--checks {settings.checks} is more than the {settings.each} conversations of each participant"
        )
    if settings.conversations is not None and settings.each > settings.conversations:
        raise InputError(f"--each {settings.each} is more than --conversations {settings.conversations}")
    with request.session() as session:
        plans = {plan.stage.name: plan for plan in session.plan("metrics")}
        if settings.pairs:
            replies = pair_replies(request, session.store, plans)
            systems = chosen_systems(settings.systems, replies, (HUMAN, *replies))
        else:
            replies = run_replies(request, session.store, plans)
            systems = chosen_systems(settings.systems, replies, usual_systems(replies))
        splits = ("train", "dev") if settings.pairs else ("test", "dev")
        dialogues = _dialogues(session.store, refs_of(plans["utterances"]), splits)
        chosen = _conversations(settings, [replies[name] for name in systems if name != HUMAN], dialogues)
        items, clips = [], []
        for number, reply in enumerate(chosen, start=1):
            item, wanted = _item(f"i{number:02}", reply, systems, replies, dialogues[reply.key[:3]], settings)
            items.append(item)
            clips += [(item.id, turn, clip) for turn, clip in wanted]
        made = _write_clips(folder, session.raw_root, clips, progress)
        left_out = tuple(
            LeftOut(item=i, turn=t, reason=why) for (i, t), why in made.items() if why is not None
        )
        items = [_without(item, left_out) for item in items]
        filmed = any(turn.clip for item in items for turn in item.turns)
        study = Study(
            title="What is a good reply?",
            instructions=(FILMED if filmed else WRITTEN) + INSTRUCTIONS,
            systems={name: _title(name, session.settings) for name in systems},
            compared=_compared(systems),
            items=tuple(items),
            places=places_of(settings, [item.id for item in items], systems),
            prolific=settings.prolific,
            return_after_h=settings.return_after_h,
            power=settings.power,
            of_pairs=settings.pairs,
            clips_left_out=left_out,
            without_clip=sum(turn.clip is None for item in items for turn in item.turns),
            run=run,
            seed=settings.seed,
        )
    write_study(folder, study, access_of(settings))
    return study


# What there is to judge -------------------------------------------------------------------------------


def _compared(systems: tuple[str, ...]) -> str:
    """The last rung of the ladder that is judged, as in figure 5; without one the last that is named."""
    return next((rung.name for rung in reversed(LADDER) if rung.name in systems), systems[-1])


def _dialogues(store: Store, refs: list[Ref], splits: tuple[str, ...]) -> dict[tuple, list[Utterance]]:
    """Dialogue of the splits -> its utterances in order."""
    found: dict[tuple, list[Utterance]] = {}
    for ref in of_table(refs, "utterances", *splits):
        for utterance in map(row_to_utterance, read_table(store.read(ref), "utterances")):
            found.setdefault(utterance.key[:3], []).append(utterance)
    return {key: sorted(said, key=lambda u: u.turn) for key, said in found.items()}


def _conversations(
    settings: StudySettings, replies: list[dict[RowKey, Reply]], dialogues: dict[tuple, list[Utterance]]
) -> list[Reply]:
    """One reply of each exchange that is judged: all systems answered it, spread over the datasets.

    Of a dataset with any conversation that is filmed from its beginning to the sentence, only such.
    """
    common = [replies[0][key] for key in sorted(set.intersection(*map(set, replies)))]
    if settings.media:
        filmed = {r.key for r in common if all(u.video_path for u in _until(r, dialogues[r.key[:3]]))}
        of = {key[0] for key in filmed}
        common = [reply for reply in common if reply.dataset not in of or reply.key in filmed]
    wanted = settings.conversations or settings.each
    if len(common) < wanted:
        raise InputError(
            f"{wanted} conversations are asked for, and all systems answered {len(common)}: give --each {len(common)} "
            "or fewer, or other --systems"
        )
    dev = [reply for reply in common if settings.pairs and reply.split == "dev"]
    others = [reply for reply in common if not settings.pairs or reply.split != "dev"]
    of_dev = max(wanted - len(others), min(len(dev), max(1, round(wanted * DEV_SHARE))))
    chosen = [
        *spread(others, wanted - of_dev, settings.seed, "study.exchanges"),
        *spread(dev, of_dev, settings.seed, "study.exchanges.dev"),
    ]
    return sorted(chosen, key=lambda reply: reply.key)


def _until(reply: Reply, dialogue: list[Utterance]) -> list[Utterance]:
    """The conversation as it is shown: every turn up to the sentence."""
    return [utterance for utterance in dialogue if utterance.turn <= reply.turn]


def _item(
    name: str,
    reply: Reply,
    systems: tuple[str, ...],
    replies: dict[str, dict[RowKey, Reply]],
    dialogue: list[Utterance],
    settings: StudySettings,
) -> tuple[StudyItem, list[tuple[int, Utterance]]]:
    """The item, and of each turn that has a clip its place and utterance."""
    said = _until(reply, dialogue)
    speakers = list(dict.fromkeys(u.speaker for u in said))
    turns, wanted = [], []
    for place, utterance in enumerate(said):
        clip = None
        if settings.media and (utterance.video_path or utterance.audio_path):
            clip = f"{name}/{place:02}.mp4"
            wanted.append((place, utterance))
        # Speakers' names are a dataset's; participants need to tell them apart and no more.
        speaker = f"Speaker {speakers.index(utterance.speaker) + 1}"
        turns.append(Turn(speaker=speaker, text=utterance.text, clip=clip))
    texts = {
        system: reply.reference if system == HUMAN else replies[system][reply.key].reply for system in systems
    }
    item = StudyItem(
        id=name,
        dataset=reply.dataset,
        split=reply.split,
        dialogue_id=reply.dialogue_id,
        turn=reply.turn,
        turns=tuple(turns),
        reference=reply.reference,
        sentence_emotion=reply.sentence_emotion,
        reference_emotion=reply.reference_emotion,
        replies=texts,
    )
    return item, wanted


def _title(name: str, settings: Settings) -> str:
    rungs = {rung.name: rung.title for rung in RUNGS}
    others = {system.row: system.shown for system in settings.systems}
    return {**rungs, **others, **OF_PAIRS, HUMAN: BESIDE[HUMAN]}.get(name, name)


# Clips ------------------------------------------------------------------------------------------------


def _write_clips(
    folder: Path,
    raw: Path,
    wanted: list[tuple[str, int, Utterance]],
    progress: Callable[[int, int], None],
) -> dict[tuple[str, int], str | None]:
    """(item, turn) -> None, or why its clip cannot be shown."""
    requests = [
        WebClip(
            root=str(raw),
            video=u.video_path,
            audio=u.audio_path,
            target=str((folder / "clips" / item / f"{turn:02}.mp4").resolve()),
            start=u.start,
            end=u.end,
            side=u.side,
        )
        for item, turn, u in wanted
    ]
    outcomes = {}
    for done, (outcome, (item, turn, _)) in enumerate(
        zip(write_web_clips(requests), wanted, strict=True), start=1
    ):
        outcomes[item, turn] = outcome
        progress(done, len(wanted))
    return outcomes


def _without(item: StudyItem, left_out: Iterable[LeftOut]) -> StudyItem:
    """The item without the clips that cannot be shown."""
    gone = {one.turn for one in left_out if one.item == item.id}
    turns = tuple(t.model_copy(update={"clip": None}) if p in gone else t for p, t in enumerate(item.turns))
    return item.model_copy(update={"turns": turns})


# Who judges what --------------------------------------------------------------------------------------


def places_of(
    settings: StudySettings, items: list[str], systems: tuple[str, ...]
) -> tuple[tuple[Shown, ...], ...]:
    places = []
    for place, shown in enumerate(assigned(items, settings.participants, settings.each, settings.seed)):
        standing = orders(systems, len(shown), place, settings.seed)
        checked = set(shuffled(shown, settings.seed, "study.checks", place)[: settings.checks])
        places.append(
            tuple(
                _with_check(item, order, place, settings.seed)
                if item in checked
                else Shown(item=item, order=order)
                for item, order in zip(shown, map(tuple, standing), strict=True)
            )
        )
    return tuple(places)


def _with_check(item: str, order: tuple[str, ...], place: int, seed: int) -> Shown:
    """An attention check somewhere among the replies; it asks for an end of the scale."""
    at = shuffled(range(len(order) + 1), seed, "study.check.place", place, item)[0]
    asked = shuffled((min(SCALE), max(SCALE)), seed, "study.check.value", place, item)[0]
    return Shown(item=item, order=(*order[:at], CHECK, *order[at:]), check=asked)


def access_of(settings: StudySettings) -> Access:
    """New secrets each time, whatever the seed: nobody can guess one from a study made before."""
    code = settings.completion_code or secrets.token_hex(4).upper()
    url = settings.completion_url or (f"{PROLIFIC_URL}{code}" if settings.prolific else None)
    count = 0 if settings.prolific else settings.participants
    return Access(
        tokens=tuple(secrets.token_urlsafe(18) for _ in range(count)),
        completion_code=code,
        completion_url=url,
    )
