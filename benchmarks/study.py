"""Many participants of a study at once over the loopback, with the server killed meanwhile: how long a click takes, and
whether every click that was acknowledged is there, once.

    python benchmarks/study.py --participants 200 --pause 1 --kills 10
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import sqlite3
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.participants import start
from tests.support.small_study import small_study

QUESTIONS = ("semantics", "empathy")


@dataclass
class Seen:
    """What the participants saw: clicks that were acknowledged, how long each took at its first try, and how often again."""

    acknowledged: set[tuple] = field(default_factory=set)
    took_ms: list[float] = field(default_factory=list)
    tried_again: int = 0
    done: int = 0


class Browser:
    """One connection that is kept open and opened again: HTTP/1.1 as far as the study speaks it."""

    def __init__(self, port: int):
        self.port, self.streams = port, None

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        """One try. OSError or EOFError where the server is gone."""
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        try:
            head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
            answer = await reader.readexactly(int(headers.get("content-length", 0)))
            return int(lines[0].split()[1]), headers, answer
        except (OSError, EOFError):
            writer.close()
            self.streams = None
            raise

    async def insist(self, seen: Seen, method: str, path: str, body: bytes = b"", timed: bool = False):
        """Until it is answered, as the page's script does."""
        for tries in range(1000):
            began = time.perf_counter()
            try:
                answer = await self.ask(method, path, body)
            except (OSError, EOFError):
                seen.tried_again += 1
                await asyncio.sleep(min(0.5, 0.05 * 2**tries))
                continue
            if timed and not tries:
                seen.took_ms.append(1000 * (time.perf_counter() - began))
            return answer
        raise SystemExit("the server did not come back")


async def take_part(port: int, token: str, pause: float, seen: Seen) -> None:
    draws, browser = random.Random(token), Browser(port)
    await asyncio.sleep(draws.uniform(0, 2 * pause))
    status, *_ = await browser.insist(seen, "POST", f"/s/{token}", b"understood=each&agree=yes")
    assert status == 303, status
    for number in range(1, 100):
        status, headers, page = await browser.insist(seen, "GET", f"/s/{token}/{number}")
        if status != 200:
            break
        for reply in range(len(re.findall(b'id="text-', page))):
            for question in QUESTIONS:
                await asyncio.sleep(draws.uniform(0, 2 * pause))
                click = f"{draws.getrandbits(64):016x}"
                body = {"reply": reply, "question": question, "value": draws.randint(1, 3), "click": click}
                what = json.dumps(body).encode()
                status, *_ = await browser.insist(
                    seen, "POST", f"/s/{token}/{number}/judge", what, timed=True
                )
                assert status == 204, status
                seen.acknowledged.add((token, number, question, click))
        status, headers, _ = await browser.insist(seen, "POST", f"/s/{token}/{number}")
        if headers.get("location", "").endswith("/done"):
            seen.done += 1
            break


async def measure(folder: Path, tokens: tuple[str, ...], pause: float, kills: int, every: float) -> dict:
    process, address = start(folder)
    port, seen = int(address.rsplit(":", 1)[1]), Seen()
    people = [asyncio.create_task(take_part(port, token, pause, seen)) for token in tokens]
    everybody = asyncio.gather(*people)
    began, killed = time.perf_counter(), 0
    while not everybody.done():
        await asyncio.wait({everybody}, timeout=every)
        if killed < kills and not everybody.done():
            process.kill()
            process.wait()
            killed += 1
            process, _ = await asyncio.to_thread(start, folder, port)
    await everybody
    took = time.perf_counter() - began
    process.kill()
    process.wait()
    there = in_journal(folder)
    times = sorted(seen.took_ms)
    return {
        "participants": len(tokens),
        "done": seen.done,
        "kills": killed,
        "clicks": len(seen.acknowledged),
        "lost": len(seen.acknowledged - there.keys()),
        "doubled": sum(count > 1 for count in there.values()),
        "not_acknowledged": len(there.keys() - seen.acknowledged),
        "tried_again": seen.tried_again,
        "clicks_a_second": round(len(seen.acknowledged) / took, 1),
        **{f"p{p}_ms": round(times[min(len(times) - 1, len(times) * p // 100)], 1) for p in (50, 95, 99)},
        "load": round(os.getloadavg()[0], 1),
    }


def in_journal(folder: Path) -> Counter:
    """(token, number of the item, question, click) -> rows."""
    study = json.loads((folder / "study.json").read_text())
    number = {
        (place, shown["item"]): at
        for place, items in enumerate(study["places"])
        for at, shown in enumerate(items, start=1)
    }
    query = "select token, place, item, question, click from judgements join participants on participants.id = participant"
    with closing(sqlite3.connect(folder / "judgements.sqlite")) as connection:
        rows = connection.execute(query).fetchall()
    return Counter(
        (token, number[place, item], question, click) for token, place, item, question, click in rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--participants", type=int, default=200)
    parser.add_argument(
        "--pause", type=float, default=1.0, help="mean seconds between a participant's clicks"
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--every", type=float, default=3.0, help="seconds between two kills")
    chosen = parser.parse_args()
    for kills in dict.fromkeys((0, chosen.kills)):
        with tempfile.TemporaryDirectory() as name:
            _, access = small_study(Path(name), participants=chosen.participants)
            found = asyncio.run(measure(Path(name), access.tokens, chosen.pause, kills, chosen.every))
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
