"""A store with exchanges, clips of full size and preference pairs, as many as are asked for: for what must not grow with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from model.compressor.compressor import new_compressor
from model.compressor.settings import CompressorSettings
from model.extractor.extractor import new_extractor
from model.extractor.settings import ExtractorSettings
from model.llm import load_llm
from model.zoo.resolve import resolve
from storage.answers import Pair
from storage.exchanges import Exchange
from storage.shards import exchange_to_row, pack_array, pair_to_row, utterance_to_row
from storage.store import Store
from storage.utterance import Utterance
from tasks.stages.shards import write_shard

AUDIO, VIDEO = (400, 384), (400, 768)
"""A clip of eight seconds as Whisper-tiny and CLIP give it: 0.9 MB."""


def write_corpus(folder: Path, clips: int) -> dict[str, list[dict]]:
    """A store with three splits of `clips` exchanges, each of a dialogue of its own, with a history and a clip; its artefacts,
    with an extractor and a compressor, both tiny and untrained."""
    store, made = Store(folder / "store"), {}
    random = np.random.default_rng(0)
    for split in ("train", "dev", "test"):
        rows: dict[str, list[dict]] = {"utterances": [], "exchanges": [], "features": [], "pairs": []}
        for number in range(clips):
            key = {"dataset": "meld", "split": split, "dialogue_id": f"{number:05d}"}
            texts = ("B", "Which one?"), ("A", f"Number {number}?"), ("B", "Yes, that one.")
            for turn, (speaker, text) in enumerate(texts):
                said = Utterance(**key, turn=turn, speaker=speaker, text=text, emotion=None, emotion_raw=None)
                rows["utterances"].append(utterance_to_row(said))
            exchange = Exchange(**key, turn=1, sentence=f"Number {number}?", reply="Yes, that one.",
                                sentence_emotion=None, reply_emotion=None, sentence_speaker="A", reply_speaker="B")  # fmt: skip
            rows["exchanges"].append(exchange_to_row(exchange, True))
            pair = Pair(**key, turn=1, sentence=exchange.sentence, reply=exchange.reply, chosen=exchange.reply,
                        rejected="No, not that one.", rejected_emotion=None, cosine=0.1)  # fmt: skip
            rows["pairs"].append(pair_to_row(pair))
            clip = {**key, "turn": 1, "media_digest": f"{number:x}"}
            for name, shape in (("audio", AUDIO), ("video", VIDEO)):
                clip[name], clip[f"{name}_shape"] = pack_array(
                    random.standard_normal(shape, dtype=np.float32)
                )
            rows["features"].append(clip)
        for table, found in rows.items():
            made.setdefault(table, []).append(write_shard(store, table, f"{table}/meld/{split}/0", found))
    llm, tokenizer = load_llm(resolve("tiny-llm"), "float32")
    table = llm.get_input_embeddings().weight
    models = {
        "extractor": new_extractor(
            ExtractorSettings(layers=1, queries=2, hidden=16, heads=2), AUDIO[1], VIDEO[1], table
        ),
        "compressor": new_compressor(
            CompressorSettings(weights="", layers=1, hidden=16, state=4), tokenizer, table, None
        ),
    }
    for name, model in models.items():
        (folder / name).mkdir()
        model.save(folder / name)
        made[name] = [store.put_tree(name, folder / name)]
    return {name: [ref.model_dump() for ref in refs] for name, refs in made.items()}
