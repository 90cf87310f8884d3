"""The printed table of all methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["print_table"]

#: Head, score, digits.
COLUMNS = (
    ("CRPS", "crps", 4),
    ("spr/sk", "spread_skill", 3),
    ("rank", "rank_deviation", 4),
    ("dB", "spectral_distance", 2),
    ("wet", "wet_fraction", 4),
    ("mass", "mass_bias", 3),
    ("P99", "p99_ratio", 3),
    ("P99.9", "p999_ratio", 3),
    ("corr", "spatial_correlation", 3),
    ("div", "diversity", 3),
)
WIDTH, NAME = 8, 32


def print_table(found: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    """Print scores, training and speed of all methods.

    Parameters
    ----------
    found
        Results by method.
    common
        Data and settings that they share.

    Returns
    -------
    dict
        CRPS skill of every row over both interpolations of the condition, and the speed of
        xcvae relative to diffusion.
    """
    skills = _skills(found)
    # Print the skill over the better of the two.
    skill = min(skills.values(), key=lambda over: over["bilinear"], default={})
    observed = _observed(found)
    print(
        f"\n{common['data']}: {common['samples'][2]} test samples, {common['coarsen']} x "
        f"{common['coarsen']} block means, {common['members']} members; wet observed {observed:.4f}"
    )
    heads = ["M par.", "min", "steps", "CRPS", "skill", *(head for head, *_ in COLUMNS[1:])]
    print(f"{'':{NAME}}" + "".join(f"{head:>{WIDTH}}" for head in heads) + f"{'fields/s':>20}")
    for result in found.values():
        for number, (label, row) in enumerate(result["rows"].items()):
            print(_line(label, row, skill.get(label), result if number == 0 else {}))
    if skill:
        print("skill: CRPS over the better bilinear")
    for device in dict.fromkeys(result["device"] for result in found.values()):
        print(f"device: {device}")
    summary: dict[str, Any] = {"crps_skill_over": skills}
    rates = {name: _rate(result)[0] for name, result in found.items() if _rate(result)}
    if {"xcvae", "edm"} <= rates.keys():
        summary["times_as_fast_as_edm"] = rates["xcvae"] / rates["edm"]
        print(f"xcvae draws {summary['times_as_fast_as_edm']:.0f} times as fast as edm")
    return summary


def _line(label: str, row: Mapping[str, Any], skill: float | None, result: Any) -> str:
    if "failed" in row:
        return f"{label:{NAME}} {row['failed']}"
    training = result.get("training")
    cells = [
        f"{result['parameters'] / 1e6:.2f}" if "parameters" in result else "",
        f"{training['minutes']:.1f}" if training else "",
        f"{training['steps']}" if training else "",
    ]
    scores = [f"{row[s]['value']:.{d}f}" if s in row else "" for _, s, d in COLUMNS]
    cells += [scores[0], "" if skill is None else f"{skill:.3f}", *scores[1:]]
    rate = _rate(result)
    speed = f"{rate[0]:,.0f} {rate[1]}" if rate else ""
    return f"{label:{NAME}}" + "".join(f"{cell:>{WIDTH}}" for cell in cells) + f"{speed:>20}"


def _rate(result: Mapping[str, Any]) -> tuple[float, str] | None:
    """Return the best rate of drawing, and its state: eager or compiled."""
    rates = result.get("fields_per_s") or {}
    return max(((one["value"], state) for state, one in rates.items()), default=None)


def _skills(found: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    rows = {label: row for one in found.values() for label, row in one["rows"].items()}
    crps = {label: row["crps"]["value"] for label, row in rows.items() if "crps" in row}
    references = found["bilinear"]["rows"] if "bilinear" in found else ()
    return {name: {k: 1 - v / crps[name] for k, v in crps.items()} for name in references}


def _observed(found: Mapping[str, Any]) -> float:
    rows = [row for one in found.values() for row in one["rows"].values()]
    return next(r["wet_fraction_observed"]["value"] for r in rows if "crps" in r)
