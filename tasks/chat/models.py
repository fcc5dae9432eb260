"""The models that a conversation needs, each loaded when it is first asked for: one LLM, its rungs' adapters, and parts.

Used from one thread alone (tasks/chat/engine.py). Knows nothing of conversations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from model.compressor.compressor import MambaCompressor
from model.compressor.reader import reader_folder
from model.compressor.reconstruction import Reconstruction
from model.dialogue.dialogue import DialogueModel, own_compressor
from model.embeddings_only import EmbeddingsAlone
from model.extractor.extractor import Extractor, load_extractor
from model.extractor.recognise import EMOTIONS
from model.extractor.rows import EmotionExample, Recogniser
from model.extractor.rows import Row as EmotionRow
from model.features.encoders import AudioEncoder, VideoEncoder, load_video_encoder
from model.generation.streaming import Decoder, StreamingDecoder
from model.llm import greedy_replies
from model.shared_llm import SharedLLM
from model.zoo.resolve import resolve
from tasks.chat.weights import RungParts, Trained


class Models:
    """Those of one run."""

    def __init__(self, found: Trained, llm: SharedLLM | EmbeddingsAlone | None = None):
        """llm: what stands for the run's LLM; None: it is loaded whole."""
        self.found, self.settings = found, found.settings
        dtype = self.settings.dialogue.training.dtype
        self.llm = llm or SharedLLM(resolve(self.settings.llm.weights), dtype)
        self._compressors: dict[Path, MambaCompressor] = {}
        self._rungs: dict[str, DialogueModel] = {}
        self._recogniser: Recogniser | None = None

    @contextmanager
    def rung(self, name: str) -> Iterator[DialogueModel]:
        """The dialogue model of a rung; within the block the LLM has its adapter."""
        parts = self.found.rungs[name]
        with self.llm.using(parts.adapter) as llm:
            if name not in self._rungs:
                self._rungs[name] = self._dialogue_model(parts, llm)
            yield self._rungs[name]

    def _dialogue_model(self, parts: RungParts, llm: nn.Module) -> DialogueModel:
        folder = self.compressor_of(parts)
        return DialogueModel(
            llm,
            self.llm.tokenizer,
            parts.rung.history,
            None if folder is None else self.compressor(folder),
            self.extractor if parts.extractor is not None else None,
            self.settings.dialogue,
        )

    def close(self) -> None:
        """End what was started for them."""

    def decoder(self, name: str) -> Decoder:
        """What streams a rung's replies; it is to be used where the rung is."""
        with self.rung(name) as model:
            return StreamingDecoder(model.llm, [self.llm.tokenizer.eos_token_id], model.cached_prefix())

    def compressor_of(self, parts: RungParts) -> Path | None:
        """The folder of a rung's compressor: its own, where it learnt with the adapter."""
        return own_compressor(parts.adapter) or parts.compressor

    def compressor(self, folder: Path) -> MambaCompressor:
        """A compressor, loaded once, whichever rungs use it."""
        if folder not in self._compressors:
            self._compressors[folder] = MambaCompressor.load(
                folder, self.llm.tokenizer, self.llm.token_embeddings
            )
        return self._compressors[folder]

    # Recall -------------------------------------------------------------------------------------------

    def recalled(self, compressor: Path, memories: Sequence[Tensor]) -> list[str]:
        """What the LLM reads out of each utterance's memories [n, d] by themselves, as in pretraining (table 5): read
        together, a line gone wrong would take those after it along."""
        encoder = self.compressor(compressor)
        with self.llm.using(reader_folder(compressor)) as llm:
            task = Reconstruction(llm, self.llm.tokenizer, dialogue=False, cached=False, bare=encoder.bare)
            prompts = [task.prompt(memory, whole=True) for memory in memories]
            texts = greedy_replies(llm, self.llm.tokenizer, prompts, encoder.shape.max_utterance_tokens)
        return [" ".join(text.split()) for text in texts]

    # Emotion ------------------------------------------------------------------------------------------

    @cached_property
    def extractor(self) -> Extractor | None:
        """The run's audio-visual emotion extractor; None where it had no clips."""
        if self.found.extractor is None:
            return None
        return load_extractor(self.found.extractor).to(self.llm.token_embeddings.device)

    def emotions(self, text: str, audio: Tensor | None, video: Tensor | None) -> dict[str, float] | None:
        """How likely the frozen LLM finds each of the seven emotions (table 4), likeliest first; they add up to 1.

        audio, video: features [T, d] of a clip, or None. None without an extractor.
        """
        if self.extractor is None:
            return None
        with self.llm.using(None) as llm:
            if self._recogniser is None:
                self._recogniser = Recogniser(llm, self.llm.tokenizer, self.extractor)
            shown = [name for name, value in (("A", audio), ("V", video)) if value is not None]
            row = EmotionRow(EmotionExample("", audio, video, text, "", ""), "+".join([*shown, "T"]))
            (scores,) = self._recogniser.scores([row], 1)
        shares = torch.softmax(scores, 0).tolist()
        return dict(sorted(zip(EMOTIONS, shares, strict=True), key=lambda pair: -pair[1]))

    # Clips --------------------------------------------------------------------------------------------

    @cached_property
    def audio_encoder(self) -> AudioEncoder:
        features = self.settings.features
        return AudioEncoder.load(resolve(features.audio_weights), features.dtype, features.audio_window_s)

    @cached_property
    def video_encoder(self) -> VideoEncoder:
        features = self.settings.features
        return load_video_encoder(
            resolve(features.video_weights), features.video_tokens_per_frame, features.dtype
        )
