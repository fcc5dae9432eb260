"""The paper's instructions (tables 4, 5 and 6), word for word, with their placeholders.

A prompt is an instruction and then lines such as "history: <memory>". A line whose content is absent (no
audio, an empty history) is left out, in training as in use. Knows nothing of tokenizers or tensors.
"""

from __future__ import annotations

MEMORY, AUDIO, VIDEO, TEXT = "<memory>", "<audio>", "<video>", "<text>"

EMOTION_RECOGNITION = (
    "You are a language model trained to perform emotion recognition tasks. Your goal is to take speech "
    "embeddings and video embeddings as input and predict the corresponding emotions. Please answer in one "
    "word: happy, sad, surprised, calm, neutral, disgust, angry, and fearful."
)
"""Table 4."""

RECONSTRUCT_UTTERANCE = (
    "You are a language model trained to reconstruct the sentence. Your goal is to take memory embeddings as "
    "input and reconstruct the original sentence. Please answer with only the reconstructed sentence without "
    "any other explanation."
)
"""Table 5, pretraining."""

RECONSTRUCT_DIALOGUE = (
    "You are a language model trained to reconstruct the utterances. Your goal is to take memory embeddings "
    "as input and reconstruct the original utterances. One memory embedding represents one utterance. Please "
    "answer with only the reconstructed utterances without any other explanation."
)
"""Table 5, finetuning."""

DIALOGUE = (
    "You are a language model trained to generate responses that are relevant to the input sentence. Your "
    "responses take into account the context from previous dialogues, as well as emotional cues captured "
    "through speech and video embeddings. The history includes information from past interactions. The speech "
    "and video embeddings provide emotional cues in the tone, accent, speech speed, facial expressions, and "
    "gestures of the input sentence. Please just generate a response without any explanation."
)
"""Table 6."""

PAPER_WORDS = {
    "happy": "happy",
    "sad": "sad",
    "surprised": "surprise",
    "calm": None,
    "neutral": "neutral",
    "disgust": "disgust",
    "angry": "angry",
    "fearful": "fearful",
}
"""The paper's eight words in its order (table 4, section 8) -> the emotion of recognition; calm is none (section 3.1).

The one list of emotions in model/; storage/utterance.py has the seven for the data.
"""

EMOTION_WORDS = {emotion: word for word, emotion in sorted(PAPER_WORDS.items()) if emotion is not None}
"""Emotion -> the answer word of table 4."""


def emotion_prompt(audio: bool, video: bool, sentence: str | None = None, text: bool = False) -> str:
    """Table 4 with the lines of the modalities given; `sentence` adds the text line of figure 6, `text` one for the
    embeddings that stand beside text alone."""
    lines = [EMOTION_RECOGNITION]
    lines += [f"speech embeddings: {AUDIO}"] if audio else []
    lines += [f"video embeddings: {VIDEO}"] if video else []
    lines += [f"text embeddings: {TEXT}"] if text else []
    lines += [f"sentence: {sentence}"] if sentence is not None else []
    return "\n".join(lines)


def reconstruction_prompt(dialogue: bool) -> str:
    """Table 5: pretraining (one utterance) or finetuning (the utterances of a dialogue)."""
    return f"{RECONSTRUCT_DIALOGUE if dialogue else RECONSTRUCT_UTTERANCE}\nmemory embeddings: {MEMORY}"


def dialogue_prompt(sentence: str, history: str | None, audio: bool, video: bool) -> str:
    """Table 6. `history` is MEMORY, the history as text, or None when nothing came before."""
    lines = [DIALOGUE]
    lines += [f"history: {history}"] if history else []
    lines += [f"speech embeddings: {AUDIO}"] if audio else []
    lines += [f"video embeddings: {VIDEO}"] if video else []
    return "\n".join([*lines, f"sentence: {sentence}"])
