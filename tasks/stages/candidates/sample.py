"""Stage `candidates` on policy: samples of the dialogue-finetuned LLM for each selected exchange, in its own prompt.

No emotion is asked for, and there is no candidate prompt: both columns are null. Rows are stored as they finish, by
the adapter's digest among all else that they are made from; a re-run samples only those that are missing. Knows
nothing of scoring or of which sample is chosen.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from model.candidates.settings import CandidateSettings
from model.candidates.usable import tidy, usable
from model.dialogue.examples import DialogueExample
from model.dialogue.sampling import DialogueSampler, Draw, sample_of, text_prompts, write_merged
from model.dialogue.settings import DialogueSettings
from model.features.stored import Features, in_memory
from model.generation.protocol import MAY_DO_BETTER, Generation, GenerationRequest
from model.generation.settings import EngineSettings
from model.zoo.resolve import resolve
from storage.answers import Candidate
from storage.exchanges import Exchange
from storage.shards import read_table, row_to_exchange, unscored_to_row
from storage.store import Ref, canonical, digest_bytes
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.stages.engine import process_engine
from tasks.stages.examples import dialogue_examples, key_text
from tasks.stages.shard_names import place
from tasks.stages.shards import write_shard

WHY_NONE = "sampled from the finetuned dialogue LLM, in its own prompt: no emotion was asked for"
"""Stands in the settings of each row, whose emotion and prompt are null."""


def sample_candidates(
    exchanges: Ref,
    utterances: Ref,
    features: list[Ref],
    adapter: Ref,
    compressor: Ref | None,
    extractor: Ref | None,
    history: Literal["text", "memory"],
    engine: str,
    settings: CandidateSettings,
    dialogue: DialogueSettings,
    llm: Weights,
    work: Workspace,
) -> list[Ref]:
    """Output: candidates/… with the usable ones marked.

    adapter, compressor, extractor: of the trained dialogue stage. engine: "vllm" or "transformers"; prompts with
    memories are sampled by transformers in this process, those of text alone by an engine of their own.
    """
    read = [row_to_exchange(row) for row in read_table(work.store.read(exchanges), "exchanges")]
    chosen = [exchange for exchange, selected in read if selected]
    found = dialogue_examples(work.store, [utterances], [exchanges], features, place(exchanges)[1])
    examples = {example.key: example for example in found}
    parts = {"adapter": adapter, "compressor": compressor, "extractor": extractor}
    made_with = _made_with(settings, dialogue, history, engine)
    draws = [
        sample_of(examples[key_text(exchange.key)], number, settings.dialogue_sampling)
        for exchange in chosen
        for number in range(settings.dialogue.samples)
    ]
    basis = [made_with, llm.identity, {name: ref and ref.content for name, ref in parts.items()}]

    def sampled(missing: list[Draw]) -> Iterator[Generation]:
        return _sampled(missing, parts, made_with, settings, dialogue, llm, work)

    answers = _answers(draws, basis, work, sampled)
    seeds = {draw.key: draw.seed for draw in draws}
    weights = f"{llm.identity}+adapter:{adapter.content}"
    rows = [
        unscored_to_row(candidate)
        for exchange in chosen
        for candidate in _candidates_of(
            exchange, answers, seeds, settings, weights, canonical(made_with).decode()
        )
    ]
    return [
        write_shard(work.store, "candidates", f"candidates/{'/'.join(exchanges.name.split('/')[1:])}", rows)
    ]


def _made_with(settings: CandidateSettings, dialogue: DialogueSettings, history: str, engine: str) -> dict:
    """What a sample depends on besides its example and the weights."""
    shown = ("memory", "recent_utterances", "max_history_utterances", "max_history_tokens")
    return {
        **settings.dialogue_sampling.model_dump(mode="json"),
        "dtype": settings.engine_args.dtype,
        "history": history,
        "engine": engine,
        **{name: getattr(dialogue, name) for name in shown},
        "emotion_and_prompt": WHY_NONE,
    }


def _answers(
    draws: Sequence[Draw], basis: list, work: Workspace, sampled: Callable[[list[Draw]], Iterator[Generation]]
) -> dict[str, dict]:
    """Draw's key -> what was answered; stored ones are not sampled again, but for those that another window may do."""
    memo = work.store.rows("candidates")
    try:
        row_keys = {
            draw.key: work.row_key("dialogue", *basis, *_shown(draw.example), draw.seed) for draw in draws
        }
        stored = memo.get_many(row_keys.values())
        answers = {key: json.loads(stored[row]) for key, row in row_keys.items() if row in stored}
        answers = {key: row for key, row in answers.items() if row["finish_reason"] not in MAY_DO_BETTER}
        missing = [draw for draw in draws if draw.key not in answers]
        for row in sampled(missing) if missing else ():
            answers[row.key] = {"text": row.text, "finish_reason": row.finish_reason, "engine": row.engine}
            memo.put(row_keys[row.key], canonical(answers[row.key]))
            work.progress(len(answers), len(draws), {})
        return answers
    finally:
        memo.close()


def _shown(example: DialogueExample) -> list:
    """All of an example that its prompt may hold, and not its true reply."""
    lines = [[utterance.text, utterance.role] for utterance in example.history]
    return [lines, example.sentence, _digest(example.audio), _digest(example.video)]


def _digest(features: Features | None) -> str | None:
    return None if features is None else digest_bytes(in_memory(features).contiguous().numpy().tobytes())


def _sampled(
    draws: Sequence[Draw],
    parts: dict[str, Ref | None],
    made_with: dict,
    settings: CandidateSettings,
    dialogue: DialogueSettings,
    llm: Weights,
    work: Workspace,
) -> Iterator[Generation]:
    folder, args = resolve(llm.name), settings.engine_args
    folders = {name: work.folder(ref) for name, ref in parts.items()}
    if made_with["history"] == "memory":
        sampler = _sampler(folder, **folders, dtype=args.dtype, dialogue=dialogue.model_dump_json())
        yield from sampler.sample(draws, settings.dialogue_sampling, args.batch_size)
        return
    examples = {draw.example.key: draw.example for draw in draws}
    prompts = dict(
        zip(
            examples,
            text_prompts(folder, list(examples.values()), dialogue, settings.max_new_tokens),
            strict=True,
        )
    )
    requests = []
    for draw in draws:
        tokens = prompts[draw.example.key]
        if tokens is None:
            yield Generation(draw.key, "", "too_long", made_with["engine"], 0, 0)
        else:
            requests.append(GenerationRequest(draw.key, (), draw.seed, tuple(tokens)))
    whole = _merged_folder(folder, folders["adapter"], args.dtype, work.store.root / "scratch")
    engine = process_engine(
        EngineSettings(
            model=str(whole), engine=made_with["engine"], args=args, sampling=settings.dialogue_sampling
        )
    )
    yield from engine.generate(requests)


@cache
def _sampler(
    llm: Path, adapter: Path, compressor: Path | None, extractor: Path | None, dtype: str, dialogue: str
) -> DialogueSampler:
    """One model for all shards of this process."""
    settings = DialogueSettings.model_validate_json(dialogue)
    return DialogueSampler(llm, adapter, compressor, extractor, "memory", dtype, settings)


@cache
def _merged_folder(llm: Path, adapter: Path, dtype: str, scratch: Path) -> Path:
    """The merged LLM as a folder that lasts as long as this process, since an engine may be started again."""
    scratch.mkdir(parents=True, exist_ok=True)
    out = Path(tempfile.mkdtemp(prefix="merged-", dir=scratch))
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    write_merged(llm, adapter, dtype, out)
    return out


def _candidates_of(
    exchange: Exchange,
    answers: dict[str, dict],
    seeds: dict[str, int],
    settings: CandidateSettings,
    weights: str,
    made_with: str,
) -> list[Candidate]:
    """The exchange's samples in their order: the second of two alike is the duplicate."""
    candidates: list[Candidate] = []
    for number in range(settings.dialogue.samples):
        key = f"{key_text(exchange.key)}#{number}"
        ending = answers[key]["finish_reason"]
        if ending == "garbled" and settings.keep_garbled:
            ending = "stop"
        text = tidy(answers[key]["text"], ending)
        earlier = [candidate.text for candidate in candidates]
        good, reason = usable(text, ending, exchange.sentence, None, earlier)
        candidates.append(
            Candidate(
                *exchange.key,
                source="dialogue",
                emotion=None,
                sample=number,
                prompt=None,
                text=text,
                finish_reason=ending,
                usable=good,
                reason=reason,
                seed=seeds[key],
                engine=answers[key]["engine"],
                weights=weights,
                settings=made_with,
            )
        )
    return candidates
