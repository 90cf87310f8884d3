"""Run the steps of a configuration, all of them or one."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from xcvae.config import Config
from xcvae.errors import ConfigError, nearest
from xcvae.pipeline.check import register_plugins
from xcvae.pipeline.outputs import (
    Summary,
    inputs_of_report,
    report_is_current,
    write_report,
    write_summary,
    written,
)
from xcvae.pipeline.steps import THERE, PipelineState, Scored
from xcvae.verify.score_text import table

__all__ = ["STEPS", "run", "run_step"]

STEPS = ("train", "sample", "evaluate", "diagnose")
REPORT = "report"
"""A step that draws again what the others have found."""


def run(config: Config, *, overwrite: bool = False, progress: bool = True) -> Summary:
    """Do the whole job of a configuration, or what is missing of it.

    Parameters
    ----------
    config
        From `xcvae.config.load`.
    overwrite
        Replace what another configuration made in the same folder.
    progress
        Show progress, on a terminal.

    Returns
    -------
    Summary
        What was done, the verdicts, and where everything is.

    Raises
    ------
    XcvaeError
        One of its subclasses: something is wrong with the configuration, the data or what is in
        the output folder.
    """
    return _run(config, STEPS, overwrite=overwrite, progress=progress)


def run_step(
    config: Config, step: str, *, overwrite: bool = False, progress: bool = True
) -> Summary:
    """Do one step of a configuration; what it builds on must be there.

    Parameters
    ----------
    config, overwrite, progress
        As for `run`.
    step
        "train", "sample", "evaluate", "diagnose", or "report": pictures and the HTML file.

    Raises
    ------
    XcvaeError
        As for `run`.
    """
    if step not in (*STEPS, REPORT):
        raise ConfigError(f"unknown step '{step}'. {nearest(step, (*STEPS, REPORT))}")
    return _run(config, (step,), overwrite=overwrite, progress=progress)


def _run(config: Config, wanted: tuple[str, ...], *, overwrite: bool, progress: bool) -> Summary:
    start = time.perf_counter()
    register_plugins(config)
    steps = PipelineState(config, overwrite=overwrite, progress=progress)
    summary = Summary(steps.folder)
    if "train" in wanted:
        _say(progress, "training")
        steps.model = steps.train()
    if "sample" in wanted:
        for section in config.sample:
            _say(progress, f"drawing '{section.name}'")
            steps.sample(section)
    scored = []
    if "evaluate" in wanted or REPORT in wanted:
        for section in config.sample:
            _say(progress, f"scoring '{section.name}'")
            scored.append(steps.evaluate(section))
            summary.verdicts[section.name] = scored[-1].verdicts
            if wanted == ("evaluate",):  # a run says more, and points to the report
                title = f"scores of '{section.name}':"
                summary.scores[section.name] = table(scored[-1].card, title=title)
    _diagnose(steps, summary, asked=REPORT in wanted or "diagnose" in wanted)
    _report(steps, scored, again=REPORT in wanted)
    summary.steps = steps.outcome
    summary.seconds = time.perf_counter() - start
    if scored and set(steps.outcome.values()) != {THERE}:
        write_summary(steps, summary)  # that of the run which made it is left alone
    summary.written = written(steps)
    return summary


def _diagnose(steps: PipelineState, summary: Summary, *, asked: bool) -> None:
    """Diagnose, or tell what the diagnosis that is there says."""
    if not asked or steps.config.diagnose is None:
        return
    if steps.diagnosis_is_current():
        steps.outcome["diagnose"] = THERE
    else:
        _say(steps.progress, "diagnosing the model")
        steps.diagnose()
    summary.diagnosis, content = steps.known_diagnosis()
    summary.sound = bool(content["ok"])


def _report(steps: PipelineState, scored: Sequence[Scored], *, again: bool) -> None:
    """Write the report, with the diagnosis if there is one, unless it is there already."""
    if not scored:
        return
    # Also of a step that did not ask for it: scoring again must not take it out of the report.
    diagnosed = steps.config.diagnose is not None and steps.diagnosis_is_current()
    made_from = inputs_of_report(steps, scored, diagnosed=diagnosed)
    if again or not report_is_current(steps, made_from):
        _say(steps.progress, "drawing the pictures")
        diagnosis = steps.known_diagnosis()[1] if diagnosed else None
        write_report(steps, scored, diagnosis, made_from)


def _say(progress: bool, text: str) -> None:
    """Say what comes next, to people only."""
    if progress and sys.stderr.isatty():
        sys.stderr.write(f"{text} ...\n")
