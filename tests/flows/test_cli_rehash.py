"""`--rehash`: what rotted on the disk, of which no time stamp tells."""

import json
import os
import time

import pytest

from storage.sample.layout import write_sample
from tests.support.command_line import empamba

UNTIL = ("--until", "utterances")
AN_HOUR_NS = 3600 * 10**9


@pytest.mark.slow
def test_rehash_finds_what_a_stat_does_not_show(tmp_path):
    """A raw file of other bytes, whose size, time and inode are as they were."""
    write_sample(tmp_path / "raw", media=False, dialogues=2, turns=4)
    file = next((tmp_path / "raw").rglob("train_sent_emo.csv"))
    long_ago = time.time_ns() - AN_HOUR_NS  # a file as young as its digest is not trusted by its stat
    os.utime(file, ns=(long_ago, long_ago))
    asked = ("--profile", "tiny", "--raw", "raw")
    assert empamba(tmp_path, "run", *asked, *UNTIL).returncode == 0
    text = file.read_bytes()
    vowel = next(at for at in range(text.index(b"\n"), len(text)) if text[at : at + 2] == b"e ")
    file.write_bytes(text[:vowel] + b"E" + text[vowel + 1 :])
    os.utime(file, ns=(long_ago, long_ago))

    def state(*options: str) -> str:
        done = empamba(tmp_path, "status", *asked, *UNTIL, "--json", *options)
        assert done.returncode == 0, done.stderr
        return {stage["stage"]: stage["state"] for stage in json.loads(done.stdout)["stages"]}["utterances"]

    assert (state(), state("--rehash")) == ("fresh", "stale")
    # What it found is remembered: the next run, which looks at stamps alone, does the work.
    done = empamba(tmp_path, "run", *asked, *UNTIL)
    assert done.returncode == 0 and b"Nothing is stale" not in done.stdout
