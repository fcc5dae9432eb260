"""Clips of sentences as a multimodal LLM is shown them: decoded once, kept in a folder, read back one by one.

So memory does not grow with their number. Knows nothing of models or prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from safetensors.numpy import load_file, save_file

from model.features.settings import FeatureSettings
from model.multimodal.model import Sense, Shown
from storage.media.clip import Clip
from storage.media.container import MediaError
from storage.media.settings import MediaSettings
from storage.utterance import Utterance
from tasks.stages.features.clips import decode_all


class ClipFolder:
    """Decoded clips by their digest, in files of a folder that is the caller's to remove."""

    def __init__(self, folder: Path, sense: Sense) -> None:
        self.folder, self.sense = folder, sense

    def fill(
        self,
        utterances: Iterable[Utterance],
        settings: FeatureSettings,
        media: MediaSettings,
        root: Path,
        progress: Callable[[int, int, dict[str, float]], None],
    ) -> None:
        """Decode what of these utterances' clips can be. One that cannot, or has not this sense, is left out."""
        missing = {
            u.media_digest: u
            for u in utterances
            if u.media_digest and not self._path(u.media_digest).exists()
        }
        for done, (utterance, clip) in enumerate(decode_all(list(missing.values()), settings, media, root)):
            if isinstance(clip, Clip) and utterance.media_digest:
                self._keep(utterance.media_digest, clip)
            progress(done + 1, len(missing), {})

    def has(self, digest: str | None) -> bool:
        return digest is not None and self._path(digest).exists()

    def __call__(self, digest: str) -> Shown:
        return Shown(**load_file(self._path(digest)))

    def _keep(self, digest: str, clip: Clip) -> None:
        """Its sound, or the frame in its middle."""
        if self.sense == "audio":
            found = clip.audio
        else:
            film = clip.frames[0] if clip.frames else None
            # A clip without its frames is an error of its own.
            found = None if film is None or isinstance(film, MediaError) else film[len(film) // 2]
        if found is not None and len(found):
            draft = self._path(digest).with_suffix(".draft")
            save_file({self.sense: found.copy()}, draft)
            draft.replace(self._path(digest))

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}.safetensors"
