"""Runs of all steps of a configuration, or of one."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from xcvae.config import Config
from xcvae.config.schema import SampleSection
from xcvae.errors import ConfigError, StoreError, nearest
from xcvae.files import locked, original_name
from xcvae.pipeline.check import check_before, check_place, register_plugins
from xcvae.pipeline.info import write_readme
from xcvae.pipeline.outputs import (
    STEPS,
    Summary,
    inputs_of_report,
    products_of,
    report_is_current,
    write_report,
    write_summary,
)
from xcvae.pipeline.steps import CATALOG, CURRENT, PipelineState, Scored
from xcvae.verify.score_text import table

REPORT = "report"  # a step of its own on the command line, and a part of `run`


def run(
    config: Config, *, overwrite: bool = False, append: bool = False, progress: bool = True
) -> Summary:
    """Run all steps of a configuration; products that are current are kept.

    Parameters
    ----------
    config
        From `xcvae.config.load`.
    overwrite
        Replace products of another configuration in the same folder.
    append
        Add members and samples that the configuration has now to finished ensembles.
    progress
        Show progress on a terminal.

    Returns
    -------
    Summary
        State of each step, verdicts, and paths of all products.

    Raises
    ------
    XcvaeError
        One of its subclasses: the configuration, the data or the content of the output folder is
        wrong.
    """
    return _run(config, STEPS, overwrite=overwrite, append=append, progress=progress)


def run_step(
    config: Config,
    step: str,
    *,
    overwrite: bool = False,
    append: bool = False,
    progress: bool = True,
) -> Summary:
    """Run one step of a configuration; the products it needs must exist.

    Parameters
    ----------
    config, overwrite, append, progress
        As for `run`.
    step
        "train", "sample", "evaluate", "diagnose", or "report" (pictures and the HTML file).

    Raises
    ------
    XcvaeError
        As for `run`.
    """
    if step not in (*STEPS, REPORT):
        raise ConfigError(f"unknown step '{step}'. {nearest(step, (*STEPS, REPORT))}")
    return _run(config, (step,), overwrite=overwrite, append=append, progress=progress)


def _run(
    config: Config, wanted: tuple[str, ...], *, overwrite: bool, append: bool, progress: bool
) -> Summary:
    start = time.perf_counter()
    steps = PipelineState(config, overwrite=overwrite, append=append, progress=progress)
    if wanted == STEPS:
        check_before(steps)
    else:
        check_place(config)
        register_plugins(config)
    with _alone_in(steps.folder):
        return _write(steps, wanted, start)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other runs out of an output folder, and remove what killed ones left.

    Raises
    ------
    StoreError
        Another run is writing products there.
    """
    missing = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    busy = StoreError.of(
        f"output '{folder}'",
        expected="no other run in this folder",
        got="one that has not ended",
        remedy="Wait until it ends, or choose another output folder.",
    )
    try:
        with locked(folder / "run", timeout=0, busy=busy):
            for file in [*folder.glob("*.tmp"), *folder.glob(f"{REPORT}/*.tmp")]:
                if original_name(file.name) not in (None, CATALOG):  # it has a lock of its own
                    file.unlink(missing_ok=True)
            yield
    finally:
        if missing:
            with suppress(OSError):  # it has products now
                folder.rmdir()


def _write(steps: PipelineState, wanted: tuple[str, ...], start: float) -> Summary:
    """Make the products of some steps."""
    config, progress = steps.config, steps.progress
    summary = Summary(steps.folder)
    if "train" in wanted:
        _announce(progress, "training")
        steps.model = steps.train()
    if "sample" in wanted:
        steps.list_data()
        for section in config.sample:
            _announce(progress, f"drawing '{section.name}'")
            steps.sample(section)
    scored = []
    if "evaluate" in wanted or REPORT in wanted:
        for section in config.sample:
            unscored = _unscored(steps, section)
            if unscored:
                summary.scores[section.name] = unscored
                continue
            _announce(progress, f"scoring '{section.name}'")
            scored.append(steps.evaluate(section))
            summary.verdicts[section.name] = scored[-1].verdicts
            if wanted == ("evaluate",):  # a whole run points to the report instead
                title = f"scores of '{section.name}':"
                summary.scores[section.name] = table(scored[-1].card, title=title)
    _diagnose(steps, summary, requested=REPORT in wanted or "diagnose" in wanted)
    _report(steps, scored, again=REPORT in wanted)
    summary.steps = steps.outcome
    summary.seconds = time.perf_counter() - start
    if scored and set(steps.outcome.values()) != {CURRENT}:
        write_summary(steps, summary)  # a run that only kept products keeps the summary too
    write_readme(steps.folder)
    summary.written = products_of(steps, wanted)
    return summary


def _unscored(steps: PipelineState, section: SampleSection) -> str:
    """Say why an ensemble has no scores; empty for one that has."""
    changed = ", ".join(steps.changed_storms(section))
    why = f"'{section.name}' is not scored: its storms ({changed}) were never observed"
    return why if changed else ""


def _diagnose(steps: PipelineState, summary: Summary, *, requested: bool) -> None:
    """Diagnose the model, or read the stored diagnosis if it is current."""
    if not requested or steps.config.diagnose is None:
        return
    if steps.diagnosis_is_current():
        steps.outcome["diagnose"] = CURRENT
    else:
        _announce(steps.progress, "diagnosing the model")
        steps.diagnose()
    summary.diagnosis, content = steps.stored_diagnosis()
    summary.sound = bool(content["ok"])


def _report(steps: PipelineState, scored: Sequence[Scored], *, again: bool) -> None:
    """Write the report, with the diagnosis if one is current; skip a report that is current."""
    if not scored:
        return
    # A step that does not diagnose, such as scoring, keeps the diagnosis in the report.
    diagnosed = steps.config.diagnose is not None and steps.diagnosis_is_current()
    inputs = inputs_of_report(steps, scored, diagnosed=diagnosed)
    if again or not report_is_current(steps, inputs):
        _announce(steps.progress, "drawing the pictures")
        diagnosis = steps.stored_diagnosis()[1] if diagnosed else None
        write_report(steps, scored, diagnosis, inputs)


def _announce(progress: bool, text: str) -> None:
    """Name the step that starts, on a terminal."""
    if progress and sys.stderr.isatty():
        sys.stderr.write(f"{text} ...\n")
