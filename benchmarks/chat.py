"""How long `chat` takes to its first words at each of 200 turns, and how much memory the process holds meanwhile.

    make bench NAME=chat ARGS="--rung 5"

The cpu profile's models without a run: SmolLM2-135M, the shipped compressor and, in the place of a rung's adapter, the
shipped reader of the same rank; an extractor of the profile's shape, untrained. What it says means nothing. Every turn is
answered, by a few tokens; after them come two with a clip. Ends with one JSON line: the rows of SHOWN, those with a clip, and how
much larger the last turns are than those around turn 5.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil

from model.extractor.extractor import new_extractor
from model.features.encoders import AudioEncoder, load_video_encoder
from model.generation.settings import Sampling
from model.llm import load_llm
from model.zoo.resolve import resolve
from tasks.chat.clips import Decoded, decode
from tasks.chat.engine import Engine
from tasks.chat.models import Models
from tasks.chat.talk import Talk, Turn
from tasks.chat.weights import RungParts, Trained
from tasks.settings import Settings, load_settings
from tasks.stages.replies.rungs import LADDER
from tests.support.clips import write_clip

TURNS = 200
SHOWN = (1, 4, 5, 6, 50, 100, 150, 199, 200)
EARLY, LATE = range(5, 15), range(TURNS - 9, TURNS + 1)
"""Turns whose medians are compared: one turn alone is the machine's mood."""
TOKENS = 6
"""Of a reply: the first words are measured, and the others make the history."""
SAID = (
    "I had a long day at work and nobody even said hello.",
    "Do you remember what my sister told us last week?",
    "We are going to the beach tomorrow, if the weather is nice.",
    "Why would anyone do that to a friend?",
)


def untrained(settings: Settings, folder: Path) -> Trained:
    """The rungs of the profile as they begin, before anything is trained for dialogue."""
    table = load_llm(resolve(settings.llm.weights), "float32")[0].get_input_embeddings().weight
    features = settings.features
    audio = AudioEncoder.load(resolve(features.audio_weights), window_s=features.audio_window_s)
    video = load_video_encoder(resolve(features.video_weights))
    new_extractor(settings.extractor, audio.width, video.width, table).save(folder)
    shipped = resolve(settings.compressor.pretrained)
    rungs = {
        rung.name: RungParts(
            rung,
            shipped / "reader" if rung.adapter else None,
            shipped if rung.mc else None,
            folder if rung.av else None,
        )
        for rung in LADDER
    }
    return Trained(settings, rungs, folder)


def measured(talk: Talk, number: int, clip: Decoded | None = None) -> dict:
    """Seconds to the first words of a turn, of the clock and of this process's processor time."""
    began, cpu = time.process_time(), []

    def changed(turn: Turn) -> None:
        if turn.answers[0].text and not cpu:
            cpu.append(round(time.process_time() - began, 3))

    turn = talk.say(SAID[number % len(SAID)], clip, changed)
    memory = round(psutil.Process().memory_info().rss / 1e6)
    return {
        "turn": number,
        "clip": clip is not None,
        "first_s": turn.answers[0].first_s,
        "cpu_s": cpu[0] if cpu else None,
        "process_mb": memory,
        "utterances": turn.history.utterances,
        "positions": turn.history.positions,
        "load": round(os.getloadavg()[0], 1),
    }


def grown(rows: list[dict]) -> dict[str, float]:
    """Medians of the late turns as multiples of the early ones'."""
    by_turn = {row["turn"]: row for row in rows}

    def middle(turns: range, name: str) -> float:
        return median(by_turn[turn][name] for turn in turns if by_turn[turn][name] is not None)

    return {name: round(middle(LATE, name) / middle(EARLY, name), 2) for name in ("cpu_s", "process_mb")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rung", default="5")
    arguments = parser.parse_args()
    settings = load_settings("cpu")
    with tempfile.TemporaryDirectory() as folder:
        found = untrained(settings, Path(folder))
        rung = found.named(arguments.rung).rung.name
        with Engine(lambda: Models(found)) as engine:
            talk = Talk(engine, found, rung, Sampling(temperature=0, max_new_tokens=TOKENS))
            rows = []
            for number in range(1, TURNS + 1):
                rows.append(measured(talk, number))
                if number in SHOWN:
                    print(json.dumps(rows[-1]), flush=True)
            clip = decode(write_clip(Path(folder) / "a.mp4"), settings.features, settings.media)
            filmed = [measured(talk, TURNS + more, clip) for more in (1, 2)]  # the first loads the encoders
    shown = [row for row in rows if row["turn"] in SHOWN] + filmed
    print(json.dumps({"name": "chat", "rung": rung, "late_over_early": grown(rows), "turns": shown}))


if __name__ == "__main__":
    main()
