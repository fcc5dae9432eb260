"""The data of every plot and table of the page as plain rows, each behind a link of its own. Knows nothing of HTML or CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tasks.nested import leaves
from tasks.report.figures import MAIN, as_dicts, figure_rows, verdict_rows
from tasks.report.variants import matrix_rows

Rows = list[dict]
ENDS = ("low", "high")


def page_rows(facts: dict) -> dict[str, Rows]:
    """Name of a link -> its rows; figures are not rounded. What the page has no table of, has no rows."""
    tables = {
        "systems": figure_rows(facts["systems"]),
        "steps": verdict_rows(facts["steps"] + facts["over_floors"]),
        "ladder": [_ladder_row(row) for row in facts["ladder"]],
        "controls": list(_controls(facts["controls"])),
        "figures": as_dicts(),
        "epo-test": list(_epo_test(facts["epo_test"])),
        "table-1": list(_by_dataset(facts["by_dataset"])),
        "generalisation": [
            {"dataset": part["dataset"], "train_exchanges": part["train_exchanges"], **flat(row)}
            for part in facts["generalisation"]
            for row in part["rows"]
        ],
        "trained-on": matrix_rows(facts["trained_on"]),
        "training-seeds": facts["seed_rows"],
        "other-systems": [flat(row) for row in facts["other_systems"]],
        "systems-compared": verdict_rows(facts["over_systems"]),
        "judge": list(_judge(facts["judge"])),
        "judge-rows": list(_judge_rows(facts["judge"])),
        "study": study_rows(facts["study"]),
        "table-3": list(_table_3(facts["long_history"])),
        "prompt-tokens": [flat(row) for row in facts["table_3"]],
        "training": [_training(part) for part in facts["training"]],
        "stages": [
            {"stage": s["stage"], "rows": s["rows"], "rejects": s["rejects"]}
            for s in facts["counts"]["stages"]
        ],
        "splits": [flat(row) for row in facts["counts"]["splits"]],
        "rejects": facts["counts"]["rejects"],
        "cards": list(_cards(facts["counts"]["cards"])),
        "weights": [
            {**w, "licence": facts["licences"]["weights"].get(w["role"], "")} for w in facts["weights"]
        ],
        "licences": [{"dataset": name, "licence": of} for name, of in facts["licences"]["datasets"].items()],
        "budgets": [flat(row) for row in facts["budgets"]],
        "settings": facts["settings"],
        "candidates": [
            {**_without(e, "candidates"), **c} for e in facts["candidate_examples"] for c in e["candidates"]
        ],
        "replies": [
            {**_without(e, "replies"), "history": _lines(e["history"]), **r}
            for e in facts["reply_examples"]
            for r in e["replies"]
        ],
    }
    tables |= _memory(facts["memory_ladder"]) | _recognition(facts["recognition"]) | _pairs(facts["pairs"])
    if facts["quality"]:
        tables["pairs-quality"] = [flat(facts["quality"])]
    if facts["reconstruction"]:
        restored = facts["reconstruction"]
        tables["table-8"] = [{"memories": kind, **flat(restored[kind])} for kind in ("own", "other")]
        tables["figure-11"] = restored["examples"]
    for part in facts["training"]:
        tables |= _of_training(part)
    for place, stage in enumerate(facts["others"], start=1):
        tables[f"stage-{place}"] = list(_other(stage))
    return tables


def flat(row: dict) -> dict:
    """A row's groups as columns of their own, joined by dots; of an interval its two ends; other lists in words."""
    found: dict = {}
    for names, value in leaves(row, dict):
        name = ".".join(map(str, names))
        if isinstance(value, (list, tuple)):
            if len(value) == len(ENDS) and name.endswith("_ci"):
                found |= {f"{name}_{end}": of for end, of in zip(ENDS, value, strict=True)}
            else:
                found[name] = " ".join(map(str, value))
        else:
            found[name] = value
    return found


def _lines(history: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{speaker}: {text}" for speaker, text in history)


def _without(row: dict, *names: str) -> dict:
    return {name: value for name, value in row.items() if name not in names}


def _ladder_row(row: dict) -> dict:
    """What the plot of the ladder draws, and what stands beside it."""
    run, paper = row["run"] or {}, row["paper"] or {}
    found = {"rung": row["rung"], "title": row["title"], "n": run.get("n"), "not_run": row["not_run"]}
    for figure in MAIN:
        ends = run.get(f"{figure.key}_ci") or (None, None)
        found |= {
            figure.key: run.get(figure.key),
            f"{figure.key}_low": ends[0],
            f"{figure.key}_high": ends[1],
        }
        found[f"paper_{figure.key}"] = paper.get(figure.key)
    return found


def _controls(controls: dict) -> Iterator[dict]:
    for control in controls.values():
        for name, found in control.items():
            for what, verdict in found.items() if isinstance(found, dict) else ():
                yield {
                    "base": control["base"],
                    "control": control["control"],
                    "figure": name,
                    "of": what,
                    **verdict,
                }


def _epo_test(found: dict | None) -> Iterator[dict]:
    """Of each training what it moved, and of EPO less each control: of all datasets together, then of each alone."""
    for dataset, moved in ({"all": found} | found["by_dataset"] if found else {}).items():
        for part in ("trainings", "beside"):
            for name, figures in moved[part].items():
                for figure, verdict in figures.items():
                    if isinstance(verdict, dict):
                        yield {
                            "dataset": dataset,
                            "of": part,
                            "training": name,
                            "figure": figure,
                            **flat(verdict),
                        }


def _table_3(found: dict | None) -> Iterator[dict]:
    """Both forms of the history, and what the memories change."""
    found = found or {}
    for form, figures in (found.get("forms") or {}).items():
        counted = {name: found[name] for name in ("exchanges", "dialogues")}
        yield {"history": form, **counted, **flat(figures)}
    for floor in found.get("floors") or ():
        yield {"history": floor["title"], "exchanges": floor["n"], **flat(_without(floor, "title", "n"))}
    for name, verdict in (found.get("changes") or {}).items():
        yield {"history": "memory less text", "figure": name, **verdict}


def _judge(pairs: Rows) -> Iterator[dict]:
    """What the table of the judge shows, a line for each pair of systems and question."""
    for pair in pairs:
        counts = flat(_without(pair, "questions", "rows"))
        for question, found in pair["questions"].items():
            yield {**counts, "question": question, **{f"verdicts_{k}": v for k, v in flat(found).items()}}


def study_rows(facts: dict | None) -> Rows:
    """What people judged: a line for each system, question and dataset; then the differences and the agreement."""
    if facts is None:
        return []
    means = [
        {"figure": "mean", "system": system["system"], "question": question, "dataset": dataset, **found}
        for system in facts["systems"]
        for question, of in system["questions"].items()
        for dataset, found in ({"all": of["all"]} | of["by_dataset"]).items()
    ]
    others = [
        {"figure": "difference", "system": row["first"], "against": row["second"], **row}
        for row in facts["differences"]
    ]
    agreement = [{"figure": "alpha", "question": name, **found} for name, found in facts["alpha"].items()]
    return [
        {k: v for k, v in row.items() if k not in ("first", "second")} for row in means + others + agreement
    ]


def _judge_rows(pairs: Rows) -> Iterator[dict]:
    """Every judged exchange: who wins each question, or why there is no judgement."""
    for pair in pairs:
        for row in pair["rows"]:
            yield {
                "first": pair["first"],
                "second": pair["second"],
                "key": "/".join(map(str, row["key"])),
                "failure": row["failure"],
                **{question: row[question] for question in pair["questions"]},
            }


def _by_dataset(parts: Rows) -> Iterator[dict]:
    for part in parts:
        for row in part["rows"]:
            yield {
                **flat(_without(row, "paper", "paper_system")),
                "paper_system": row["paper_system"],
                **{f"paper_{name}": value for name, value in (row["paper"] or {}).items()},
            }
        for row in part["others"]:
            paper = {f"paper_{name}": value for name, value in (row["paper"] or {}).items()}
            yield {
                "dataset": part["dataset"],
                "paper_system": row["title"],
                "not_run": row["not_run"],
                **paper,
            }


def _training(part: dict) -> dict:
    report, judged = part["report"] or {}, part["judged"] or {}
    history = report.get("history") or {}
    return {
        "stage": part["stage"],
        "not_run": part["reason"],
        "verdict": judged.get("grade"),
        "before": _loss(report.get("heldout_before")),
        "after": _loss(report.get("heldout_after")),
        "steps": len(history.get("train") or []),
    }


def _loss(figures: dict | float | None) -> float | None:
    return figures.get("loss") if isinstance(figures, dict) else figures


def _of_training(part: dict) -> dict[str, Rows]:
    """Its curve, what it is judged by, and all its figures."""
    report, stage = part["report"], part["stage"]
    if report is None:
        return {}
    history = report.get("history") or {}
    curve = [
        {
            "set": name,
            "step": point["step"],
            "loss": point["loss"],
            "kept": point["step"] == history.get("best_step"),
        }
        for name in ("train", "heldout")
        for point in history.get(name) or []
    ]
    figures = _without(report, "history", "compared", "free_running")
    return {
        f"{stage}-loss": curve,
        f"{stage}-judged": (part["judged"] or {}).get("findings") or [],
        f"{stage}-figures": [{"figure": name, "value": value} for name, value in flat(figures).items()],
        f"{stage}-restored": (report.get("free_running") or {}).get("examples") or [],
    }


def _memory(ladder: dict | None) -> dict[str, Rows]:
    if ladder is None:
        return {}
    arms = ladder["arms"].items()
    return {
        "memory-ladder": [{"arm": name, **flat(_without(arm, "by_turn"))} for name, arm in arms],
        "memory-by-dataset": [
            {"dataset": dataset, "arm": name, **flat(_without(arm, "by_turn"))}
            for dataset, part in ladder["by_dataset"].items()
            for name, arm in part["arms"].items()
        ],
        "memory-by-turn": [{"arm": name, **flat(part)} for name, arm in arms for part in arm["by_turn"]],
        "memory-comparisons": [
            {"dataset": dataset, **flat(row)}
            for dataset, part in ({"all": ladder} | ladder["by_dataset"]).items()
            for row in part["comparisons"]
        ],
    }


def _recognition(found: dict | None) -> dict[str, Rows]:
    """Figure 6, with what was answered to each label."""
    if found is None:
        return {}
    accuracy = found["accuracy"]
    return {
        "figure-6": [{"input": name, **flat(_without(row, "confusion"))} for name, row in accuracy.items()],
        "figure-6-by-dataset": [
            {"dataset": dataset, "input": name, **flat(_without(row, "confusion"))}
            for dataset, inputs in found["accuracy_by_dataset"].items()
            for name, row in inputs.items()
        ],
        "figure-6-mcnemar": found["mcnemar"],
        "figure-6-confusion": [
            {"input": name, "label": label, "answer": answer, "clips": clips}
            for name, row in accuracy.items()
            for label, answers in row["confusion"].items()
            for answer, clips in answers.items()
        ],
    }


def _pairs(pairs: dict | None) -> dict[str, Rows]:
    """What the plots of cosines draw, and every count."""
    if pairs is None:
        return {}
    bins = pairs["cosine_counts"]
    edges = [-1 + 2 * place / len(bins) for place in range(len(bins) + 1)]
    counted = ("by_asked_emotion", "by_dataset", "by_reply_emotion", "unusable", "rejects")
    drawn = (*counted, "cosine_counts", "least_cosines", "calibration")
    human = pairs["calibration"] or {}
    return {
        "pairs": [flat(_without(pairs, *drawn))],
        "pairs-cosines": [{"from": a, "to": b, "candidates": n} for a, b, n in zip(edges, edges[1:], bins, strict=False)],
        "pairs-least-cosines": [{"least_cosine": cosine} for cosine in pairs["least_cosines"]],
        "pairs-calibration": [
            {"emotions": kind, "cosine": cosine} for kind in ("same", "different") for cosine in human.get(kind) or ()
        ],
        "pairs-counts": [
            {"by": by, "of": name, **(counts if isinstance(counts, dict) else {"count": counts})}
            for by in counted
            for name, counts in pairs[by].items()
        ],
    }  # fmt: skip


def _cards(cards: dict) -> Iterator[dict]:
    """The cells of every data card, one a row: its tables have columns of their own."""
    for dataset, card in cards.items():
        for table in card["tables"]:
            for row in table["rows"]:
                for head, cell in list(zip(table["header"], row, strict=False))[1:]:
                    yield {
                        "dataset": dataset,
                        "table": table["title"],
                        "row": row[0],
                        "column": head,
                        "value": cell,
                    }


def _other(stage: dict) -> Iterator[dict]:
    for table in stage["tables"]:
        for name in ("files", "rows", "rejects"):
            yield {"of": table["name"], "figure": name, "value": table[name]}
    for file, figures in stage["figures"].items():
        for name, value in flat(figures).items():
            yield {"of": file, "figure": name, "value": value}
