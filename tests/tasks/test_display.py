"""What a person sees of a plan in the terminal."""

from rich.console import Console

from tasks.display import status_tree
from tasks.engine.declaration import Stage
from tasks.engine.item import Item
from tasks.engine.planner import StagePlan


def shown(*plans: StagePlan) -> list[str]:
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        console.print(status_tree(list(plans)))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_parts_stand_below_their_stage_and_reasons_below_their_item():
    features = Stage("features", "")
    items = [Item(features, "meld/train/0", {}), Item(features, "meld/train/1", {})]
    trained = StagePlan(
        Stage("compressor.pretrain", ""), "fresh", behind={"all": "behind the data by 3 rows"}
    )
    assert shown(
        StagePlan(Stage("utterances", ""), "fresh"),
        StagePlan(Stage("utterances.exchanges", ""), "fresh"),
        StagePlan(features, "stale", items, {"meld/train/1": ["changed input: meld/train dialogue [17]"]}),
        trained,
        StagePlan(Stage("epo", ""), "unknown", reason="unknown until features has run"),
    ) == [
        "pipeline",
        "├── utterances fresh",
        "│   └── utterances.exchanges fresh",
        "├── features stale 1 of 2 items",
        "│   └── meld/train/1",
        "│       └── changed input: meld/train dialogue [17]",
        "├── compressor",
        "│   └── compressor.pretrain fresh",
        "│       └── behind the data by 3 rows",
        "└── epo unknown (unknown until features has run)",
    ]
