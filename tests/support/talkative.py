"""A run's parts for tests that talk to them: the tiny LLM with weights large enough to say something, random adapters, a
small compressor and extractor. No store: what finds them there has tests of its own.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from model.adapter import new_adapter, save_adapter
from model.compressor.compressor import new_compressor
from model.compressor.settings import CompressorSettings
from model.extractor.extractor import new_extractor
from model.extractor.settings import ExtractorSettings
from model.features.encoders import AudioEncoder, load_video_encoder
from model.json_files import write_json
from model.llm import load_llm
from model.zoo.random_models import write_random_model
from model.zoo.resolve import resolve
from tasks.chat.weights import RungParts, Trained
from tasks.settings import load_settings
from tasks.stages.replies.rungs import LADDER


def talkative(folder: Path, louder: float = 4, **config: int) -> Trained:
    """The five rungs, written into `folder`. louder: how much larger its weights are than drawn; config: of the LLM, changed."""
    llm_folder = folder / "llm"
    write_random_model("tiny-llm", llm_folder)
    written = json.loads((llm_folder / "config.json").read_text(encoding="utf-8"))
    write_json(written | config, llm_folder / "config.json")
    llm, tokenizer = load_llm(llm_folder, "float32")
    with torch.no_grad():
        for parameter in llm.parameters():
            if parameter.ndim == 2:
                parameter.mul_(louder)
    llm.save_pretrained(llm_folder)
    table = llm.get_input_embeddings().weight
    small = CompressorSettings(weights="", hidden=32, layers=1)
    new_compressor(small, tokenizer, table, None).save(folder / "compressor")
    changes = (f'llm.weights="{llm_folder}"', "dialogue.max_history_utterances=6")
    settings = load_settings("tiny", changes)
    audio = AudioEncoder.load(
        resolve(settings.features.audio_weights), window_s=settings.features.audio_window_s
    )
    video = load_video_encoder(resolve(settings.features.video_weights))
    shape = ExtractorSettings(layers=1, queries=4, hidden=32, heads=4)
    new_extractor(shape, audio.width, video.width, table).save(folder / "extractor")
    adapters = [_adapter(llm_folder, folder / f"adapter{seed}", seed) for seed in range(4)]
    rungs = {
        rung.name: RungParts(
            rung,
            None if rung.adapter is None else adapters[place - 1],
            folder / "compressor" if rung.mc else None,
            folder / "extractor" if rung.av else None,
        )
        for place, rung in enumerate(LADDER)
    }
    return Trained(settings, rungs, folder / "extractor", {"4f-text": "it was not asked for"}, ("a note",))


def _adapter(llm: Path, folder: Path, seed: int) -> Path:
    adapted = new_adapter(load_llm(llm, "float32")[0], 2, 4, ["q_proj", "v_proj"], seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.3)
    save_adapter(adapted, folder)
    return folder
