"""The report: one self-contained HTML page and its JSON, made from a run's artefacts."""
