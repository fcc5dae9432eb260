"""How much of the raw data has been read is told while it is read, from before the first byte on."""

import os
import time

from storage.filestat import StatCache
from tasks.engine.raw_files import read_raw_files

HEADER = (
    "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
)
MB = 10**6


def test_megabytes_that_have_to_be_read_are_told_part_by_part(tmp_path):
    folder, told = tmp_path / "raw" / "MELD.Raw", []
    (folder / "train_splits").mkdir(parents=True)
    texts, clip = folder / "train_sent_emo.csv", folder / "train_splits" / "dia0_utt0.mp4"
    texts.write_text(HEADER + "1,Hi,Ann,joy,positive,0,0,1,1,0,1\n")
    clip.write_bytes(bytes(30 * MB))
    long_ago = time.time_ns() - 10**12  # a file as young as its digest is read again
    for path in (texts, clip):
        os.utime(path, ns=(long_ago, long_ago))
    cache = StatCache(tmp_path / "stats.sqlite")
    read_raw_files(tmp_path / "raw", cache, lambda done, total: told.append((done, total)))
    done = [part for part, _ in told]
    assert {total for _, total in told} == {30}
    assert done == sorted(done) and (done[0], done[-1]) == (0, 30) and len(set(done)) >= 20
    cache.save()

    def again() -> list[tuple[int, int]]:
        told.clear()
        read_raw_files(
            tmp_path / "raw", StatCache(tmp_path / "stats.sqlite"), lambda *parts: told.append(parts)
        )
        return told

    assert again() == []  # what is known is not read, and is no part of the total
    clip.write_bytes(bytes(2 * MB))
    assert again()[0] == (0, 2) and again()[-1] == (2, 2)
