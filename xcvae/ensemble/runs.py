"""What is there of a run already: nothing, a part, all of it, or something else."""

from __future__ import annotations

from typing import Any, Literal

from xcvae.ensemble.identity import differences
from xcvae.ensemble.target import Held, Run
from xcvae.errors import OutputExistsError, explain

__all__ = ["Resume", "State", "find", "is_settled", "notes_of"]

Resume = bool | Literal["restart", "repair"]
State = Literal["finished", "begun", "new", "damaged"]


def is_settled(run: Run, resume: Resume) -> bool:
    """Whether the same ensemble is there, finished, and nothing else is to be done or tidied.

    It can be said without the lock, so that any number of processes open a store at a time.
    """
    there = run.target.finished().identity
    if resume is not True or there is None or differences(there, run.identity):
        return False
    return run.target.tidy()


def find(run: Run, resume: Resume) -> State:
    """Say what is already there under the name of a run.

    Returns
    -------
    str
        ``"finished"``: the same ensemble, to be opened. ``"begun"``: a part of the same ensemble,
        to be continued. ``"new"``: nothing, or with ``resume="restart"`` something to replace.
        ``"damaged"``: with ``resume="repair"``, the same ensemble, of which files have changed.

    Raises
    ------
    OutputExistsError
        Something else is there, or ``resume=False`` and anything is there; with
        ``resume="restart"``, something that xcvae did not write.
    """
    begun = run.target.begun()
    told = begun.told
    if resume and told.get("replaces") and not differences(told["run"], run.to_json()):
        # The one to be replaced keeps its name until the last step.
        return "begun"
    if resume == "restart":
        run.target.check_replaceable()
        return "new"
    there = run.target.finished()
    if resume == "repair" and there.there:
        return _repairable(run, there, begun)
    for held, content, wanted in (
        (there, there.identity, dict(run.identity)),
        (begun, told.get("run"), run.to_json()),
    ):
        if not held.there:
            continue
        differing = ["no xcvae ensemble"] if content is None else differences(content, wanted)
        if differing or not resume:
            raise _taken(held, differing, resume)
        return "finished" if held is there else "begun"
    return "new"


def _repairable(run: Run, there: Held, begun: Held) -> State:
    told = there.told
    if there.records is None or not told:
        raise _taken(there, ["no xcvae ensemble"], resume=True)
    # More than its identity: what is drawn again must have the last digits of the rest.
    differing = differences(told["run"], run.to_json())
    if differing:
        raise _taken(there, differing, resume=True)
    count = told.get("regions", len(there.records.entries()))
    if len(there.records.intact()) == count and not there.records.changed():
        return "finished"
    if begun.there:
        raise _taken(begun, ["a replacement with other settings"], resume=True)
    return "damaged"


def _taken(held: Held, differing: list[str], resume: Resume) -> OutputExistsError:
    remedy = "Choose another name"
    if held.told:  # only ensembles can be replaced
        remedy += ', or replace the ensemble with resume="restart"'
    return OutputExistsError(
        explain(
            f"store '{held.name}'",
            expected="nothing there, or the same ensemble" if resume else "nothing there",
            got="; ".join(differing) or "the same ensemble, and resume=False",
            remedy=f"{remedy}.",
        )
    )


def notes_of(run: Run, state: State) -> dict[str, Any]:
    """Return the notes of a run that was begun or is to be repaired; empty for a new one."""
    held = {"begun": run.target.begun, "damaged": run.target.finished}.get(state)
    notes = held().told.get("notes") if held else None
    return notes if isinstance(notes, dict) else {}
