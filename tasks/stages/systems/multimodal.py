"""Stages `systems.fit` and `systems.multimodal`: multimodal LLMs of table 1, finetuned where asked, answer the test exchanges.

They are given table 6 with the history as text, as rung 1 is, and hear or see the sentence. Knows nothing of metrics.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from model.dialogue.settings import DialogueSettings
from model.features.settings import FeatureSettings
from model.generation.protocol import MAY_DO_BETTER, NO_REPLY
from model.multimodal.engines import load_multimodal
from model.multimodal.model import sense_of
from model.multimodal.settings import MultimodalTraining
from model.multimodal.train import MultimodalExample, train_multimodal
from model.prompts import dialogue_prompt
from model.zoo.resolve import resolve
from storage.answers import Reply
from storage.exchanges import Exchange
from storage.media.settings import MediaSettings
from storage.shards import reject_to_row, reply_to_row
from storage.store import Ref, canonical
from storage.utterance import Reject, Utterance
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.settings import ReplySettings
from tasks.stages.evaluation import evaluation_exchanges, exchanges_to_answer
from tasks.stages.examples import key_text, read_dialogues, tagged
from tasks.stages.shards import dialogue_keys, read_rows, row_key, write_rejects, write_shard
from tasks.stages.stand_in import choosing
from tasks.stages.systems.clips import ClipFolder
from tasks.stages.systems.settings import MultimodalSystem


def fit_multimodal(
    name: str,
    training: MultimodalTraining,
    weights: Weights,
    utterances: list[Ref],
    exchanges: list[Ref],
    dialogue: DialogueSettings,
    features: FeatureSettings,
    media: MediaSettings,
    work: Workspace,
    start: Ref | None = None,
    stand_ins: tuple[str, ...] = (),
) -> list[Ref]:
    """A LoRA on the exchanges of train. Output: the folder "adapter-NAME". stand_ins: as for the dialogue stages."""
    folder = resolve(weights.name)
    said = {split: _examples(work, utterances, exchanges, dialogue, split) for split in ("train", "dev")}
    with tempfile.TemporaryDirectory() as clips_folder, tempfile.TemporaryDirectory() as out:
        clips = ClipFolder(Path(clips_folder), sense_of(folder))
        sentences = [utterance for rows in said.values() for _, utterance in rows]
        clips.fill(sentences, features, media, work.raw, work.progress)
        train, heldout = ([_with_clip(e, clips) for e, _ in rows] for rows in said.values())
        train_multimodal(
            folder,
            train,
            _that_choose(heldout, utterances, stand_ins, work),
            clips,
            training,
            Path(out),
            progress=work.progress,
            checkpoints=work.checkpoints(),
            start=work.folder(start),
        )
        return [work.store.put_tree(f"adapter-{name}", Path(out), rows=len(train))]


def _examples(
    work: Workspace, utterances: list[Ref], exchanges: list[Ref], dialogue: DialogueSettings, split: str
) -> list[tuple[MultimodalExample, Utterance]]:
    """Every exchange of the split by key, beside the utterance that is its sentence."""
    dialogues = read_dialogues(work.store, utterances, split)
    found = []
    for row in sorted(read_rows(work.store, exchanges, "exchanges", split), key=row_key):
        key = row_key(row)
        prompt, sentence = _prompt(key[3], dialogues[key[:3]], dialogue.max_history_utterances)
        example = MultimodalExample(
            key_text(key), prompt, row["reply"], sentence.media_digest, key_text(key[:3])
        )
        found.append((example, sentence))
    return found


def _with_clip(example: MultimodalExample, clips: ClipFolder) -> MultimodalExample:
    """Without the clip where it could not be decoded."""
    clip = example.clip if clips.has(example.clip) else None
    return MultimodalExample(example.key, example.prompt, example.reply, clip, example.dialogue)


def _that_choose(
    examples: list[MultimodalExample], utterances: list[Ref], stand_ins: tuple[str, ...], work: Workspace
) -> list[MultimodalExample]:
    """Those of dialogues of dev that checkpoints may be chosen on (tasks/stages/stand_in.py)."""
    rows = read_rows(work.store, utterances, "utterances", "dev")
    may = {key_text(key) for key in choosing(dialogue_keys(rows), stand_ins)}
    return [example for example in examples if example.dialogue in may]


def _prompt(turn: int, dialogue: list[Utterance], turns: int) -> tuple[str, Utterance]:
    """Table 6 to the sentence of this turn, with the last `turns` before it as role-tagged text; and the sentence."""
    at = next(i for i, utterance in enumerate(dialogue) if utterance.turn == turn)
    history = "\n".join(tagged(dialogue)[max(0, at - turns) : at])
    return dialogue_prompt(dialogue[at].text, history, False, False), dialogue[at]


def answer_with_clips(
    system: MultimodalSystem,
    weights: Weights,
    adapter: Ref | None,
    utterances: list[Ref],
    exchanges: list[Ref],
    settings: ReplySettings,
    dialogue: DialogueSettings,
    features: FeatureSettings,
    media: MediaSettings,
    work: Workspace,
) -> list[Ref]:
    """Outputs: replies/all/test/system-NAME, rejects/system-NAME, NAME.json, as stage `systems` leaves them.

    Answers are stored as they come; a prompt that was too long for the window is asked again, since another window may hold it.
    A sentence without a clip, or whose clip cannot be decoded, is answered from its text, and counted.
    """
    chosen = exchanges_to_answer(
        evaluation_exchanges(work.store, utterances, exchanges), settings.exchanges, settings.seed
    )
    dialogues = read_dialogues(work.store, utterances, "test", "dev")
    asked = [_prompt(e.turn, dialogues[e.key[:3]], dialogue.max_history_utterances) for e in chosen]
    made_with = [
        system.engine, system.engine_args.dtype, settings.max_new_tokens, adapter and adapter.digest,
        features.frames, features.max_seconds, features.seed, media.decoder,
    ]  # fmt: skip
    keys = [work.row_key(prompt, sentence.media_digest, *made_with) for prompt, sentence in asked]
    wanted = dict(zip(keys, asked, strict=True))
    memo = work.store.rows("systems")
    try:
        stored = {key: json.loads(value) for key, value in memo.get_many(wanted).items()}
        answers = {key: row for key, row in stored.items() if row["finish_reason"] not in MAY_DO_BETTER}
        missing = {key: row for key, row in wanted.items() if key not in answers}
        if missing:
            with tempfile.TemporaryDirectory() as folder:
                clips = ClipFolder(Path(folder), sense_of(resolve(weights.name)))
                clips.fill([u for _, u in missing.values()], features, media, work.raw, work.progress)
                for key, answer in _asked(system, weights, adapter, missing, clips, settings, work):
                    answers[key] = answer
                    memo.put(key, canonical(answer))
                    work.progress(len(answers), len(wanted), {})
    finally:
        memo.close()
    return _written(system, weights, chosen, [answers[key] for key in keys], answers, work)


def _asked(
    system: MultimodalSystem,
    weights: Weights,
    adapter: Ref | None,
    rows: dict[str, tuple[str, Utterance]],
    clips: ClipFolder,
    settings: ReplySettings,
    work: Workspace,
) -> Iterator[tuple[str, dict]]:
    """Each row's answer, as batches are done: of rows that have a clip, then of those that have none."""
    args = system.engine_args
    engine = load_multimodal(system.engine, resolve(weights.name), args, work.folder(adapter))
    for seen in (True, False):
        alike = [key for key, (_, sentence) in rows.items() if clips.has(sentence.media_digest) == seen]
        alike.sort(key=lambda key: len(rows[key][0]))  # of like length: little is spent on padding
        for start in range(0, len(alike), args.batch_size):
            batch = alike[start : start + args.batch_size]
            texts = [engine.prompter.prompt(rows[key][0], seen) for key in batch]
            shown = [clips(str(rows[key][1].media_digest)) if seen else None for key in batch]
            found = engine.replies(texts, shown, settings.max_new_tokens)
            for key, answer in zip(batch, found, strict=True):
                yield (
                    key,
                    {
                        "text": answer.reply.text,
                        "finish_reason": answer.reply.finish_reason,
                        "prompt_tokens": answer.prompt_tokens,
                        "new_tokens": answer.new_tokens,
                        "with_clip": seen,
                    },
                )


def _written(
    system: MultimodalSystem,
    weights: Weights,
    chosen: list[Exchange],
    said: list[dict],
    distinct: dict[str, dict],
    work: Workspace,
) -> list[Ref]:
    """The artefacts. distinct: the answers that were asked for, each once."""
    rows = [
        Reply(
            *e.key,
            rung=system.row,
            sentence=e.sentence,
            reference=e.reply,
            reply=a["text"].strip(),
            sentence_emotion=e.sentence_emotion,
            reference_emotion=e.reply_emotion,
            finish_reason=a["finish_reason"],
            prompt_tokens=a["prompt_tokens"],
            reply_tokens=a["new_tokens"],
        )
        for e, a in zip(chosen, said, strict=True)
        if a["finish_reason"] not in NO_REPLY
    ]
    failed = [
        Reject(*e.key, a["finish_reason"], f"{system.name} gave no reply")
        for e, a in zip(chosen, said, strict=True)
        if a["finish_reason"] in NO_REPLY
    ]
    facts = {
        "name": system.name,
        "model": weights.identity,
        "identity": {},
        "exchanges": len(chosen),
        "answered": len(rows),
        "with_clip": sum(a["with_clip"] for a in said),
        "failures": dict(sorted(Counter(reject.reason for reject in failed).items())),
        "prompts": len(distinct),
        "prompt_tokens": sum(a["prompt_tokens"] for a in distinct.values()),
        "reply_tokens": sum(a["new_tokens"] for a in distinct.values()),
        "uncounted": 0,
        "retries": 0,
    }
    return [
        write_shard(work.store, "replies", f"replies/all/test/{system.row}", [reply_to_row(r) for r in rows]),
        write_rejects(work.store, system.row, [reject_to_row(r, "systems") for r in failed]),
        work.store.put_bytes(f"{system.name}.json", canonical(facts)),
    ]
