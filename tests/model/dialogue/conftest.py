"""A small compressor for the tests of dialogue trainings."""

import pytest

from model.compressor.compressor import new_compressor
from model.compressor.settings import CompressorSettings
from model.llm import load_llm


@pytest.fixture(scope="module")
def compressor_folder(responsive_llm_folder, tmp_path_factory):
    llm, tokenizer = load_llm(responsive_llm_folder, "float32")
    out = tmp_path_factory.mktemp("compressor")
    small = CompressorSettings(weights="", hidden=32, layers=1)
    new_compressor(small, tokenizer, llm.get_input_embeddings().weight, None).save(out)
    return out
