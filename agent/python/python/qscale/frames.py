"""Results of `qscale evaluate` and load traces as pandas data frames. Owns the shape of the frames; must not compute statistics.

Each function of results takes the folder of an evaluation (`qscale evaluate --out FOLDER`) or its `results.json`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

try:
    import pandas
except ImportError as error:
    raise ImportError(f"qscale.frames needs pandas ({error}); install the wheel with its extra: pip install 'WHEEL[frames]'") from error

__all__ = ["latencies", "runs", "settings", "summary", "timelines", "trace"]

VERSION = "1.0"
"""Version of `results.json` that is read."""
TRACE_KEYS = ("HashOwner", "HashApp", "HashFunction", "Trigger")
"""Columns of a trace that identify a function; the others are minutes."""


def runs(folder: str | Path) -> pandas.DataFrame:
    """One row for each run: competitor, variant, cell and seed, then a column for each measure; NaN where it could not be measured."""
    results = _results(folder)
    seeds = results["settings"]["seeds"]
    groups = [
        pandas.DataFrame({**_labels(results, group), "seed": seeds, **{name: values for name, values in group["measures"].items()}})
        for group in results["groups"]
    ]
    frame = pandas.concat(groups, ignore_index=True)
    measures = [name for name in frame.columns if name not in (*LABELS, "seed")]
    return frame.astype({name: float for name in measures})


def summary(folder: str | Path) -> pandas.DataFrame:
    """The rows of `summary.csv`: interquartile means with their intervals, by competitor and measure."""
    return pandas.read_csv(_folder(folder) / "summary.csv")


def timelines(folder: str | Path) -> pandas.DataFrame:
    """Time series of the runs that the suite selects: one row for each interval, `until_s` is its end in seconds."""
    results = _results(folder)
    columns = ("seed", "until_s", "rate_rps", "replicas", "cores", "latency_ms", "waiting", "violated")
    series = [pandas.DataFrame({**_labels(results, one), **{name: one[name] for name in columns}}) for one in results["timelines"]]
    frame = pandas.concat(series, ignore_index=True) if series else pandas.DataFrame(columns=[*LABELS, *columns])
    return frame.astype({name: float for name in columns if name != "seed"})


def latencies(folder: str | Path) -> pandas.DataFrame:
    """Histograms of the successful requests: one row for each bucket, with its upper bound in milliseconds and the number of requests."""
    results = _results(folder)
    rows = [
        {**_labels(results, group), "upper_ms": upper, "requests": requests}
        for group in results["latencies"]
        for upper, requests in group["buckets"]
    ]
    return pandas.DataFrame(rows, columns=[*LABELS, "upper_ms", "requests"])


def settings(folder: str | Path) -> dict[str, Any]:
    """Settings of the evaluation, with the command that reproduces it."""
    return _results(folder)["settings"]


def trace(path: str | Path) -> pandas.DataFrame:
    """Invocations of a trace in the format of the Azure Functions trace of 2019, or of InVitro: `function`, `minute` (from 1) and `invocations`.

    `path` is the file, or the folder with `invocations.csv`. Minutes without invocations have no row.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "invocations.csv"
    table = pandas.read_csv(file)
    minutes = [name for name in table.columns if re.fullmatch(r"\d+", str(name))]
    if "HashFunction" not in table.columns or not minutes:
        raise ValueError(f"{file}: no trace of invocations; it must have the column HashFunction and a column for each minute")
    keys = [name for name in TRACE_KEYS if name in table.columns]
    frame = table.melt(keys, minutes, "minute", "invocations")
    frame = frame[frame["invocations"] > 0].rename(columns={"HashFunction": "function", "HashOwner": "owner", "HashApp": "app", "Trigger": "trigger"})
    return frame.astype({"minute": int, "invocations": int}).sort_values(["function", "minute"]).reset_index(drop=True)


LABELS = ("competitor", "variant", "cell", "function", "workload", "perturbation")
"""Columns that identify a group of runs."""


def _labels(results: dict[str, Any], part: dict[str, Any]) -> dict[str, str]:
    competitor, cell = results["competitors"][part["competitor"]], results["cells"][part["cell"]]
    labels = {"competitor": competitor["name"], "variant": competitor["variant"], "cell": cell["name"]}
    return labels | {name: cell[name] for name in ("function", "workload", "perturbation")}


def _folder(path: str | Path) -> Path:
    path = Path(path)
    return path if path.is_dir() else path.parent


def _results(path: str | Path) -> dict[str, Any]:
    file = _folder(path) / "results.json"
    try:
        results = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file}: not JSON: {error}") from error
    version = results.get("version") if isinstance(results, dict) else None
    if version != VERSION:
        raise ValueError(f"{file}: version {version!r}, this package reads {VERSION!r}")
    return results
