"""Models of faults to come, fitted to the recorded history by scikit-learn; the predictor's heavy work.

`python -m runners.predicting HISTORY` prints what would be learned from a history, for people to see. The history is read
in time order through the same code that follows a fleet (`agents.predictor.tracks`): every end of a block is an example,
the fault within the horizon its label. The first part of the history is fitted to, the last is what a model must be better
on than the trend, or it isn't used.
"""

import argparse
import asyncio
import math
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from agents.effects import Work
from agents.inputs import Result, WorkExited
from agents.predictor import Fitted, Learned, LearnFromHistory, Model, PredictorSettings, tracks
from agents.predictor.state import KINDS, Track
from bus import processes
from schemas.errors import ShoalError
from schemas.prediction import RiskKind

Post = Callable[[Result], None]
FITTED_PART = 0.7
"""Of the examples, in order of time, that a model is fitted to; on the others it is compared with the trend."""
NO_LIBRARY = "scikit-learn is not installed: pip install 'shoal[predict]'"
_FAULTS = (
    ("memory", "SELECT node, at FROM events WHERE type = 'WorkFailed' AND json_extract(body, '$.kind') = 'out_of_memory'"),
    ("link", "SELECT node, at FROM events WHERE type = 'NodeLost'"),
)
_DAY = 86400.0


class UnknownWork(ShoalError):
    """The predictor was asked for work that it can't do. Attribute: `work`."""

    def __init__(self, work: Work) -> None:
        super().__init__(f"the predictor can't do {type(work).__name__}: start it in the process that can")
        self.work = work


class Example(msgspec.Struct, frozen=True):
    """The end of a block, and what came of it."""

    at: float
    features: tuple[float, float, float]
    came: bool


class LearningWorks:
    """The work runner of the predictor's process: a process of its own for each fit, since scikit-learn takes 100 MB."""

    def __init__(self, history: Path) -> None:
        self._history = history
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, key: str, work: Work, post: Post) -> None:
        """Begin; a key at work already is left alone.

        Raises:
            UnknownWork: it is no `LearnFromHistory`.
        """
        if not isinstance(work, LearnFromHistory):
            raise UnknownWork(work)
        if key not in self._tasks:
            task = self._tasks[key] = asyncio.get_running_loop().create_task(self._learn(key, work, post))
            task.add_done_callback(lambda done: self._tasks.pop(key, None))

    def stop(self, key: str, reason: str) -> None:
        """Give it up."""
        if key in self._tasks:
            self._tasks[key].cancel()

    async def close(self) -> None:
        """Give all up."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _learn(self, key: str, work: LearnFromHistory, post: Post) -> None:
        settings = msgspec.json.encode(work.settings).decode()
        argv = (sys.executable, "-m", "runners.predicting", str(self._history), "--settings", settings, "--json")
        pipe = asyncio.subprocess.PIPE
        process = await processes.spawn(argv, nice=10, stdout=pipe, stderr=pipe)
        try:
            out, err = await process.communicate()
        except asyncio.CancelledError:
            await processes.end_now(process)
            raise
        if process.returncode == 0:
            post(Learned(fitted=msgspec.json.decode(out, type=tuple[Fitted, ...])))
        else:
            lines = tuple(err.decode(errors="replace").strip().splitlines()[-3:])
            post(WorkExited(key=key, code=process.returncode or 1, last_lines=lines))


def learn(path: Path, settings: PredictorSettings) -> tuple[Fitted, ...]:
    """What a history teaches of each kind of fault.

    Raises:
        sqlite3.Error: it can't be read.
    """
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        return tuple(_fit(kind, examples(connection, kind, settings), settings) for kind in KINDS)
    finally:
        connection.close()


def examples(connection: sqlite3.Connection, kind: RiskKind, settings: PredictorSettings) -> list[Example]:
    """All of one kind, in order of time. Those whose horizon the history doesn't reach are left out."""
    (newest,) = connection.execute("SELECT max(at) FROM metrics").fetchone()
    if newest is None:
        return []
    since = newest - settings.learn_days * _DAY
    memory = dict(
        connection.execute(
            "SELECT node, json_extract(body, '$.memory_bytes') FROM events WHERE type = 'NodeProfile' ORDER BY seq"
        ).fetchall()
    )
    names = [name for (name,) in connection.execute("SELECT DISTINCT name FROM metrics") if tracks.kind_of(name) == kind]
    events = _events(connection, kind)
    found: list[Example] = []
    for name in sorted(names):
        for (node,) in connection.execute("SELECT DISTINCT node FROM metrics WHERE name = ?", (name,)).fetchall():
            rows = connection.execute(
                "SELECT at, value FROM metrics WHERE node = ? AND name = ? AND at >= ? ORDER BY at", (node, name, since)
            )
            found += _of_figure(kind, rows, int(memory.get(node) or 0), events.get(node, []), newest, settings)
    return sorted(found, key=lambda example: example.at)


def _events(connection: sqlite3.Connection, kind: RiskKind) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {}
    for of, sql in _FAULTS:
        for node, at in connection.execute(f"{sql} ORDER BY at") if of == kind else ():
            times.setdefault(node, []).append(at)
    return times


def _of_figure(
    kind: RiskKind,
    rows: Iterator[tuple[float, float]] | sqlite3.Cursor,
    memory_bytes: int,
    events: Sequence[float],
    newest: float,
    settings: PredictorSettings,
) -> Iterator[Example]:
    track, last = Track(kind=kind), -math.inf
    ends: list[tuple[float, tuple[float, float, float]]] = []
    crossed = list(events)
    for at, value in rows:
        if at - last > settings.horizon_seconds:  # it was away: another trend begins
            track.count, track.total, track.blocks = 0, 0.0, []
        last = at
        level = tracks.level(track, value, memory_bytes, settings)
        if level is None or not tracks.take(track, level, at, settings):
            continue
        if kind in tracks.CROSSING and track.blocks[-1] >= 1.0:
            crossed.append(at)
            continue
        features = tracks.features(track, settings)
        if features is not None:
            ends.append((at, features))
    for at, features in ends:
        if at + settings.horizon_seconds <= newest:
            yield Example(at, features, any(at < time <= at + settings.horizon_seconds for time in crossed))


def _fit(kind: RiskKind, found: Sequence[Example], settings: PredictorSettings) -> Fitted:
    """A model, if history supports one that is better than the trend."""
    faults = sum(example.came for example in found)
    first, rest = found[: int(FITTED_PART * len(found))], found[int(FITTED_PART * len(found)) :]
    if faults < settings.model_faults:
        few = f"the history has {faults} such faults, {settings.model_faults} are wanted: the trend stands in"
        return Fitted(kind=kind, examples=len(found), faults=faults, problem=few)
    if len({example.came for example in first}) < 2 or not any(example.came for example in rest):
        lopsided = "all such faults are in one part of the history: the trend stands in"
        return Fitted(kind=kind, examples=len(found), faults=faults, problem=lopsided)
    model = fit_model(first)
    if model is None:
        return Fitted(kind=kind, examples=len(found), faults=faults, problem=NO_LIBRARY)
    by_model, by_trend = loss(model, rest), loss(tracks.PRIOR, rest)
    problem = "" if by_model < by_trend else "a model fitted to the history foretells no better than the trend"
    return Fitted(
        kind=kind, examples=len(found), faults=faults, model=model if not problem else None, loss_model=by_model,
        loss_trend=by_trend, problem=problem,
    )  # fmt: skip


def fit_model(found: Sequence[Example]) -> Model | None:
    """A logistic regression of examples with and without the fault; None where there is no library for it."""
    try:
        from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    except ImportError:
        return None
    fit = LogisticRegression(C=10.0, max_iter=1000)
    fit.fit([example.features for example in found], [example.came for example in found])
    weights = tuple(float(weight) for weight in fit.coef_[0])
    return Model(bias=float(fit.intercept_[0]), weights=(weights[0], weights[1], weights[2]), basis="model")


def loss(model: Model, found: Sequence[Example]) -> float:
    """Mean logarithmic loss."""
    total = 0.0
    for example in found:
        chance = min(1 - 1e-9, max(1e-9, tracks.chance(model, example.features)))
        total -= math.log(chance if example.came else 1 - chance)
    return total / len(found)


def main(argv: list[str] | None = None) -> int:
    """The way in for the predictor, and for people."""
    parser = argparse.ArgumentParser(prog="python -m runners.predicting", description=__doc__)
    parser.add_argument("history", type=Path, help="history.sqlite in the store of `shoal up`")
    parser.add_argument("--settings", default="{}", help="of the predictor, as JSON")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args(argv)
    try:
        found = learn(options.history, msgspec.json.decode(options.settings, type=PredictorSettings))
    except (sqlite3.Error, msgspec.DecodeError) as error:
        print(f"{options.history}: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(msgspec.json.encode(found).decode())
        return 0
    for fitted in found:
        losses = "" if fitted.loss_model is None else f", loss {fitted.loss_model:.4f} (trend {fitted.loss_trend:.4f})"
        print(
            f"{fitted.kind}: {fitted.examples} examples, {fitted.faults} faults{losses}; {fitted.problem or 'model used'}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
