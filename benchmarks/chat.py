"""How long `chat` takes to its first words at turn 5 and at turn 200, and how much memory the process holds at both.

    make bench NAME=chat ARGS="--rung 3"

The cpu profile's models without a run: SmolLM2-135M, the shipped compressor and, in the place of a rung's adapter, the
shipped reader of the same rank; an extractor of the profile's shape, untrained. What it says means nothing. Turns between
those that are measured add as many utterances to the history and are not answered. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import psutil

from model.extractor.extractor import new_extractor
from model.features.encoders import AudioEncoder, load_video_encoder
from model.generation.settings import Sampling
from model.llm import load_llm
from model.zoo.resolve import resolve
from tasks.chat.engine import Engine
from tasks.chat.models import Models
from tasks.chat.talk import CHATBOT, PERSON, Talk, Turn
from tasks.chat.weights import RungParts, Trained
from tasks.settings import Settings, load_settings
from tasks.stages.replies.rungs import LADDER

MEASURED = (1, 4, 5, 6, 50, 100, 199, 200)
SAID = (
    "I had a long day at work and nobody even said hello.",
    "Do you remember what my sister told us last week?",
    "We are going to the beach tomorrow, if the weather is nice.",
    "Why would anyone do that to a friend?",
)
ANSWER = "That sounds like a hard day, I am sorry to hear it."


def untrained(settings: Settings, folder: Path) -> Trained:
    """The rungs of the profile as they begin, before anything is trained for dialogue."""
    table = load_llm(resolve(settings.llm.weights), "float32")[0].get_input_embeddings().weight
    features = settings.features
    audio = AudioEncoder.load(resolve(features.audio_weights))
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


def measured(talk: Talk, number: int) -> dict:
    """Seconds to the first words of a turn, of the clock and of this process's processor time."""
    began, cpu = time.process_time(), []

    def changed(turn: Turn) -> None:
        if turn.answers[0].text and not cpu:
            cpu.append(round(time.process_time() - began, 3))

    turn = talk.say(SAID[number % len(SAID)], changed=changed)
    memory = round(psutil.Process().memory_info().rss / 1e6)
    return {
        "turn": number,
        "first_s": turn.answers[0].first_s,
        "cpu_s": cpu[0] if cpu else None,
        "process_mb": memory,
        "utterances": turn.history.utterances,
        "positions": turn.history.positions,
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rung", default="3")
    arguments = parser.parse_args()
    settings = load_settings("cpu")
    with tempfile.TemporaryDirectory() as folder:
        found = untrained(settings, Path(folder))
        rung = found.named(arguments.rung).rung.name
        with Engine(lambda: Models(found)) as engine:
            talk = Talk(engine, found, rung, Sampling(temperature=0, max_new_tokens=6))
            rows = []
            for number in range(1, MEASURED[-1] + 1):
                if number in MEASURED:
                    rows.append(measured(talk, number))
                    print(json.dumps(rows[-1]), flush=True)
                else:
                    talk.conversation.add(SAID[number % len(SAID)], PERSON)
                    talk.conversation.add(ANSWER, CHATBOT)
                    engine.call(lambda models: talk.conversation.read(models, rung)).result()
    by_turn = {row["turn"]: row for row in rows}
    slower = {name: round(by_turn[200][name] / by_turn[5][name], 2) for name in ("cpu_s", "process_mb")}
    print(json.dumps({"name": "chat", "rung": rung, "turn_200_over_turn_5": slower, "turns": rows}))


if __name__ == "__main__":
    main()
