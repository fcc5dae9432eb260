"""Flow: public text in, the project's own small compressor out; it is shipped, so no other flow needs it."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from tasks.pretraining import pretrain_on_texts


@flow(name="pretrain-compressor", log_prints=True)
def pretrain_compressor(
    texts: list[Path], out: Path, llm: str, settings: Path | None = None, start: Path | None = None
) -> dict:
    """Pretrain a compressor on the utterances of text files, choose its step on held-out ones, write its folder."""
    return pretrain_on_texts(texts, out, settings, llm, start)
