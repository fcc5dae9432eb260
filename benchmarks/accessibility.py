"""Chat's page and a study's pages in a real browser, on a desktop and on a phone: what axe-core finds, and a picture of each.

npm pack axe-core && tar -xzf axe-core-*.tgz
python benchmarks/accessibility.py package/axe.min.js --pictures DIR
"""

from __future__ import annotations

import argparse
import base64
import tempfile
from pathlib import Path

import numpy as np

from model.generation.settings import Sampling
from storage.sample.media import write_mp4
from tasks.chat.engine import Engine
from tasks.chat.models import Models
from tasks.chat.web import web_app
from tests.support import participants
from tests.support.browser import Browser
from tests.support.clips import write_clip
from tests.support.served import served
from tests.support.small_study import item, small_study
from tests.support.talkative import talkative

SCREENS = {"desktop": (1280, 900, False), "phone": (390, 844, True)}
"""Width, height, and whether it is one that is touched."""
FOUND = """axe.run().then((found) => ({
  passes: found.passes.length,
  incomplete: found.incomplete.map((one) => one.id),
  violations: found.violations.map((one) => [one.impact, one.id, one.help, one.nodes.map((node) => node.html.slice(0, 90))]),
}))"""


class Walk:
    """A browser that looks at the page it is on."""

    def __init__(self, page: Browser, axe: str, pictures: Path):
        self.page, self.axe, self.pictures = page, axe, pictures
        self.violations = 0

    def look(self, name: str) -> None:
        """A line for each screen, and one for each violation."""
        for screen, (width, height, mobile) in SCREENS.items():
            self._as_on(width, height, mobile)
            self.page.run(f"{self.axe}; 0")
            found = self.page.run(FOUND)
            aside = self.page.run("document.documentElement.scrollWidth > innerWidth")
            told = f"{len(found['violations'])} violations, {found['passes']} rules passed"
            print(f"{name}, {screen}: {told}; not decided: {', '.join(found['incomplete']) or 'none'}")
            for impact, rule, what, where in found["violations"]:
                print(f"  {impact}: {rule}: {what}: {where}")
            if aside:
                print("  wider than the screen")
            self.violations += len(found["violations"]) + aside
            # A screen as high as the page: what keeps to its lower edge would else lie across the middle.
            whole = self.page.run("document.documentElement.scrollHeight")
            self._as_on(width, max(height, whole), mobile)
            picture = self.page.ask("Page.captureScreenshot")
            (self.pictures / f"{name}-{screen}.png".replace(" ", "-")).write_bytes(
                base64.b64decode(picture["data"])
            )

    def _as_on(self, width: int, height: int, mobile: bool) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.page.ask("Emulation.setDeviceMetricsOverride", **size)


def chat(walk: Walk, folder: Path) -> None:
    """Empty, after a turn with a clip that two rungs answered, and with what the memory gives back."""
    folder.mkdir()
    found, page = talkative(folder), walk.page
    with Engine(lambda: Models(found)) as engine:
        app = web_app(engine, found, "5-epo", Sampling(temperature=0, max_new_tokens=8), "a-run", "127.0.0.1")
        with served(app) as url:
            page.go(url)
            page.until("document.activeElement.id === 'text' && location.hash.length > 20")
            walk.look("chat empty")
            clip = base64.b64encode(write_clip(folder / "a.mp4").read_bytes()).decode()
            page.run(f"sent(new Blob([Uint8Array.from(atob('{clip}'), (c) => c.charCodeAt(0))]))")
            page.until("clip !== null")
            page.run(
                "(() => { const s = document.getElementById('beside'); s.value = '3-mc'; s.dispatchEvent(new Event('change')); })()"
            )
            page.run("document.getElementById('text').focus()")
            page.type("I have lost my keys again.")
            page.until("turns.length === 1 && turns.at(-1).history !== null")
            walk.look("chat answered")
            page.run("document.getElementById('recall').click()")
            page.until("!document.getElementById('recalled').hidden")
            walk.look("chat recalled")


def study(walk: Walk, folder: Path) -> None:
    """Instructions, a filmed conversation unanswered and answered, the end."""
    (folder / "clips/i01").mkdir(parents=True)
    film = np.full((10, 48, 64, 3), 90, dtype=np.uint8)
    write_mp4(folder / "clips/i01/01.mp4", film, 10, np.zeros(16_000), 16_000, 1)
    _, access = small_study(folder, [item(1, clip="i01/01.mp4")], participants=1, seed=1)
    page = walk.page
    with participants.served(folder) as address:
        page.go(f"{address}/s/{access.tokens[0]}")
        walk.look("study instructions")
        page.run(
            "document.querySelector('input[value=each]').click(); document.querySelector('[name=agree]').click()"
        )
        page.run("document.querySelector('button').click()")
        page.until("location.pathname.endsWith('/1') && document.readyState == 'complete'")
        walk.look("study conversation")
        for key in "123123":
            page.press(key)
        page.until("document.getElementById('state').textContent == 'Saved. All is answered here.'")
        walk.look("study answered")
        page.press("Enter")
        page.until("location.pathname.endsWith('/done')")
        walk.look("study done")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("axe", type=Path, help="axe.min.js, of the npm package axe-core")
    parser.add_argument("--pictures", type=Path, default=None, help="folder for the pictures")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = given.pictures or folder / "pictures"
        pictures.mkdir(parents=True, exist_ok=True)
        with Browser(folder / "profile") as page:
            walk = Walk(page, given.axe.read_text(encoding="utf-8"), pictures)
            chat(walk, folder / "chat")
            study(walk, folder / "study")
    print(f"{walk.violations} in all")


if __name__ == "__main__":
    main()
