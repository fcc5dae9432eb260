"""Settings, seeds and lines of the protocol."""

import json
import subprocess
import sys

import pytest

from model.generation.protocol import (
    Generation,
    GenerationRequest,
    decode_requests,
    encode_requests,
    encode_row,
    request_seed,
)
from model.generation.settings import EngineArgs, Sampling

MESSAGES = ({"role": "system", "content": ""}, {"role": "user", "content": "(Happy) Hi."})


def test_requests_survive_the_line():
    requests = [GenerationRequest("a\n/é", MESSAGES, 2**62 + 1), GenerationRequest("b", MESSAGES, 0)]
    line = encode_requests(requests)
    assert line.count("\n") == 1 and line.endswith("\n")
    assert decode_requests(line) == requests


def test_rows_survive_the_line():
    row = Generation("a", "two\nlines", "stop", "vllm", 5, 3)
    line = encode_row(row)
    assert line.count("\n") == 1
    assert Generation(**json.loads(line)["row"]) == row


def test_seed_follows_prompt_and_sampling_only():
    seed = request_seed(MESSAGES, Sampling())
    assert 0 <= seed < 2**63
    assert request_seed([dict(reversed(m.items())) for m in MESSAGES], Sampling()) == seed
    other_prompt = ({"role": "user", "content": "(Sad) Hi."},)
    others = [
        request_seed(other_prompt, Sampling()),
        request_seed(MESSAGES, Sampling(seed=1)),
        request_seed(MESSAGES, Sampling(temperature=0.7)),
        request_seed(MESSAGES, Sampling(top_p=0.9)),
        request_seed(MESSAGES, Sampling(max_new_tokens=32)),
    ]
    assert len({seed, *others}) == 6


def test_seed_is_the_same_in_another_process():
    code = (
        "from model.generation.protocol import request_seed; from model.generation.settings import Sampling;"
        "print(request_seed(({'role': 'user', 'content': 'é'},), Sampling()))"
    )
    seeds = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_with_hash_seed(n)
        ).stdout.strip()
        for n in (1, 2)
    }
    assert seeds == {str(request_seed(({"role": "user", "content": "é"},), Sampling()))}


def test_a_step_must_hold_a_prompt():
    with pytest.raises(ValueError, match="would be split"):
        EngineArgs(max_model_len=8192, max_num_batched_tokens=4096)


def test_light_modules_import_no_torch():
    code = (
        "import sys, model.generation.client, model.candidates.settings, model.candidates.usable;"
        "sys.exit(bool({'torch', 'transformers', 'vllm'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], env=_with_hash_seed(0)).returncode == 0


def _with_hash_seed(seed: int) -> dict[str, str]:
    import os

    return os.environ | {"PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
