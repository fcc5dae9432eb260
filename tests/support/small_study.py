"""A small study by hand: three systems, conversations without clips unless given, people by link or from Prolific."""

from __future__ import annotations

from pathlib import Path

from tasks.study.make import StudySettings, access_of, places_of
from tasks.study.power import Power
from tasks.study.study import FILMED, INSTRUCTIONS, Access, Study, StudyItem, Turn, write_study

SYSTEMS = {"1-llm": "LLM as it is", "4-av": "+ audio-visual", "5-epo": "+ EPO"}


def item(
    number: int, dataset: str = "meld", clip: str | None = None, first_clip: str | None = None, **replies: str
) -> StudyItem:
    """Two turns, and a reply of each system that names it, so that a test can tell them apart."""
    return StudyItem(
        id=f"i{number:02}",
        dataset=dataset,
        split="test",
        dialogue_id=f"d{number}",
        turn=1,
        turns=(
            Turn(speaker="Speaker 1", text=f"Hello, number {number}.", clip=first_clip),
            Turn(speaker="Speaker 2", text=f"I lost my keys, all {number} of them.", clip=clip),
        ),
        reference="Oh no.",
        sentence_emotion="sad",
        reference_emotion="sad",
        replies={name: f"{title} says {number}" for name, title in SYSTEMS.items()}
        | {name.replace("_", "-"): text for name, text in replies.items()},
    )


def small_study(
    folder: Path, items: list[StudyItem] | None = None, participants: int = 4, **settings
) -> tuple[Study, Access]:
    items = items or [item(n, "meld" if n < 4 else "iemocap") for n in range(1, 6)]
    settings = StudySettings(participants=participants, each=settings.pop("each", len(items)), **settings)
    study = Study(
        title="What is a good reply?",
        instructions=FILMED + INSTRUCTIONS,
        systems=SYSTEMS,
        compared="5-epo",
        items=tuple(items),
        places=places_of(settings, [one.id for one in items], tuple(SYSTEMS)),
        prolific=settings.prolific,
        return_after_h=settings.return_after_h,
        power=Power(),
        run="",
        seed=settings.seed,
    )
    access = access_of(settings)
    folder.mkdir(parents=True, exist_ok=True)
    write_study(folder, study, access)
    return study, access
