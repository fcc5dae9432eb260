"""Each table and figure of the paper (arXiv 2412.17572): where the report has it, or why it has not. Knows nothing of HTML."""

from __future__ import annotations

from tasks.report.rungs import NOT_ASKED

SURVEY = "a study (`empamba study make`, docs/study.md)"
JUDGEMENTS = "needs people's judgements, named in `study.judgements` (docs/study.md)"
PROMPTS, DRAWING = (
    "a prompt, in model/ word for word; nothing to measure",
    "a drawing of the method; nothing to measure",
)


def paper_index(facts: dict) -> list[dict]:
    """{"of": table or figure, "about", "place": the section's id, or None, "not_run": why the run has no figures of it, or
    None, "says": what else there is to say} of each, in the paper's order."""
    replies = None if facts["systems"] else "needs replies and their metrics"
    candidates = None if facts["candidate_examples"] else "needs candidates and their scores"
    restored = None if facts["reconstruction"] else facts["reconstruction_not_run"] or NOT_ASKED
    recognised = None if facts["recognition"] else facts["recognition_not_run"] or NOT_ASKED
    survey = "`empamba study serve` shows it" if facts["study"] else ""
    no_survey = None if facts["study"] else f"needs {SURVEY}"
    return [
        _row("Table 1", "systems by dataset", "datasets", replies),
        _row("Table 2", "the ladder of parts", "ladder", replies),
        _row("Table 3", "long histories", "table-3", _no_long_history(facts)),
        _row("Tables 4, 5, 6, 7", PROMPTS),
        _row("Table 8", "conversations restored", "table-8", restored),
        _row("Figures 1, 2, 3, 4", DRAWING),
        _row(
            "Figure 5",
            "what people say",
            "study" if facts["study"] else None,
            None if facts["study"] else JUDGEMENTS,
        ),
        _row("Figure 6", "emotion recognition by input", "recognition", recognised),
        _row(
            "Figure 7",
            "replies side by side",
            "replies",
            None if facts["reply_examples"] else "needs replies",
        ),
        _row("Figure 8", "candidates of an exchange", "candidates", candidates),
        _row("Figure 9", "the survey's instructions", None, no_survey, survey),
        _row("Figure 10", "the survey's page", None, no_survey, survey),
        _row("Figure 11", "a conversation restored", "table-8" if restored else "figure-11", restored),
    ]


def _row(of: str, about: str, place: str | None = None, not_run: str | None = None, says: str = "") -> dict:
    return {"of": of, "about": about, "place": place, "not_run": not_run, "says": says}


def _no_long_history(facts: dict) -> str | None:
    long = facts["long_history"]
    if long and long["exchanges"]:
        return None
    if long:
        return f"no test exchange has {long['least_turns']} turns before its sentence"
    return facts["long_history_not_run"] or NOT_ASKED
