"""Small clips, written by PyAV: a picture, a sound, or both; and a turn of a conversation that holds one."""

from __future__ import annotations

import base64
from pathlib import Path

import av
import numpy as np


def write_clip(path: Path, seconds: float = 1.0, picture: bool = True, sound: bool = True) -> Path:
    """H.264 at 10 pictures a second, a tone in AAC; without either an mp4 of the other alone."""
    with av.open(str(path), "w") as container:
        film = container.add_stream("libx264", rate=10) if picture else None
        voice = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        if film is not None:
            film.width = film.height = 64
            film.pix_fmt = "yuv420p"
            for number in range(int(10 * seconds)):
                shade = np.full((64, 64, 3), 20 * (number % 10), np.uint8)
                container.mux(film.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
            container.mux(film.encode())
        if voice is not None:
            tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(16000 * seconds)) / 16000)
            frame = av.AudioFrame.from_ndarray(tone.astype(np.float32)[None], format="fltp", layout="mono")
            frame.sample_rate = 16000
            container.mux(voice.encode(frame))
            container.mux(voice.encode())
    return path


def turn_with_clip(text: str, kind: str, file: bytes) -> dict:
    """A user's turn as OpenAI's clients write it (sound), or as vLLM's do (a data URL)."""
    held = base64.b64encode(file).decode()
    part = (
        {"data": held, "format": "wav"} if kind == "input_audio" else {"url": f"data:video/mp4;base64,{held}"}
    )
    return {"role": "user", "content": [{"type": kind, kind: part}, {"type": "text", "text": text}]}
