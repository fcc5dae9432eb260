"""A dialogue's memories while it goes on: each utterance is read once, at the same cost however much was said before.

Knows nothing of prompts, or of where utterances come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

from torch import Tensor

from model.compressor.compressor import MambaCompressor
from model.compressor.mamba import LayerState
from model.dialogue.dialogue import Compressor
from model.spoken import Spoken


class StreamedMemories:
    """The memories of the last `kept` utterances of one dialogue, and the state that the next is read after."""

    def __init__(self, compressor: Compressor, kept: int):
        self.compressor, self.kept = compressor, kept
        self.heard = 0
        """Utterances read so far."""
        self._memories: tuple[Tensor, ...] = ()
        self._states: list[LayerState] | None = None

    def read(self, dialogue: Sequence[Spoken]) -> tuple[Tensor, ...]:
        """Memories [n_memories, d] of each of the dialogue's last `kept` utterances.

        dialogue: what was said, the utterances of earlier calls first; only those that are new are read.
        """
        for utterance in dialogue[self.heard :]:
            if isinstance(self.compressor, MambaCompressor):
                memory, self._states = self.compressor.step(utterance, self._states)
            else:
                (memory,) = self.compressor.compress([(utterance,)])
            self._memories = (*self._memories, memory)[-self.kept :] if self.kept else ()
            self.heard += 1
        return self._memories

    def branch(self) -> StreamedMemories:
        """The same dialogue so far, to be continued in another way; what was read is shared."""
        return copy(self)

    @property
    def state_bytes(self) -> int:
        """What the next utterance is read after takes: the same from the first utterance on."""
        return sum(layer.window.nbytes + layer.state.nbytes for layer in self._states or ())
