"""Tiny random weights that several model tests share."""

from pathlib import Path

import pytest
import torch

from model.llm import load_llm
from model.zoo.random_models import write_random_model


@pytest.fixture(scope="session")
def tiny_llm_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-llm")
    write_random_model("tiny-llm", folder)
    return folder


@pytest.fixture(scope="session")
def tiny_mamba_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-mamba")
    write_random_model("tiny-mamba", folder)
    return folder


@pytest.fixture(scope="session")
def responsive_llm_folder(tmp_path_factory) -> Path:
    """The tiny LLM with larger weights: freshly drawn ones hardly let the prompt change what is said."""
    folder = tmp_path_factory.mktemp("responsive-llm")
    write_random_model("tiny-llm", folder)
    llm, _ = load_llm(folder, "float32")
    with torch.no_grad():
        for parameter in llm.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    llm.save_pretrained(folder)
    return folder
