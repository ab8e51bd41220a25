"""What was fitted, on which data, by which code, how good: a folder per version, no pickle in it."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from propend.errors import ModelError, nearest
from propend.events.durable import replace_text
from propend.expression.nodes import Expression, Field
from propend.expression.parse import parse
from propend.learn import calibration
from propend.learn.companion import kept_readouts
from propend.learn.judge import judge
from propend.learn.rivals import FUSION
from propend.learn.train import Fitted
from propend.models import catalog, storage
from propend.tasks.task import Task

__all__ = ["Entry", "Registry", "plain"]

FORMAT = 2
HISTORY = "history"
"""File of a task's folder: one line for each time that another version came to score."""
TESTS = ("protocol", "folds", "tested", "tested_positives", "tested_hash")
"""What of a card says in which tests its figures were taken; cards from before ``tested_hash`` hold the others."""


@dataclass(frozen=True)
class Entry:
    """One version of a task's model."""

    task: str
    version: int
    folder: Path
    made_at: str
    champion: str
    current: bool
    verdict: str = ""
    """What the card says of its use: ``use``, ``use the rule`` or ``not enough data``."""
    remark: str = ""
    """Why a version that was to score does not."""
    fault: str = ""
    """Why the version cannot be used, in a sentence; empty where it can."""


class Registry:
    """The fitted models of a workspace, by task and version; the current one is what scores."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, fitted: Fitted, *, promote: bool = True) -> Entry:
        """Keep a fitted task as the next version and, unless told otherwise, make it the current one.

        In the very tests the current one was judged in (the same rows, folds and protocol), a worse one by the task's own
        metric is kept beside it.
        """
        home = self.folder / fitted.task.name
        home.mkdir(parents=True, exist_ok=True)
        version = 1 + max((v for v in _versions(home)), default=0)
        temporary = home / f".v{version}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        fitted.model.save(temporary / "model")
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        replace_text(
            temporary / "fitted.json",
            json.dumps(
                plain(
                    {
                        "format": FORMAT,
                        "name": fitted.name,
                        "task": fitted.task.name,
                        "ask": fitted.task.ask,
                        "title": fitted.task.title,
                        "features": [str(f) for f in fitted.features],
                        "categories": {str(j): list(v) for j, v in fitted.categories.items()},
                        "threshold": fitted.threshold,
                        "calibrator": fitted.calibrator.state(),
                        "made_at": made_at,
                        "code": code_state(),
                        "card": fitted.card,
                    }
                ),
                indent=1,
                ensure_ascii=False,
            ),
        )
        replace_text(temporary / "seal", _seal(temporary))
        temporary.rename(home / f"v{version}")
        remark = self._worse(fitted) if promote and version > 1 else ""
        if version == 1 or (promote and not remark):
            self._make_current(home, version)
        current = self._current(home) == version
        verdict = _verdict(fitted.card)
        return Entry(
            fitted.task.name, version, home / f"v{version}", made_at, fitted.name, current, verdict=verdict, remark=remark
        )  # fmt: skip

    def _worse(self, fitted: Fitted) -> str:
        """Return in words why a new version must not replace the current one; empty: it may."""
        name = fitted.task.name
        try:
            current = self._current(self.folder / name)
            old = json.loads((self.folder / name / f"v{current}" / "fitted.json").read_text("utf-8"))  # fmt: skip
            before = old["card"]
            if old["ask"] != fitted.task.ask or not _same_tests(before, fitted.card):
                return ""
            quantile = fitted.card.get("quantile")
            if quantile != before.get("quantile"):
                return ""
            kind = judge(fitted.task.answer, quantile)
            metric = kind.headline[0]
            was, now = before["metrics"][metric], fitted.card["metrics"][metric]
        except (OSError, ValueError, KeyError):  # nothing to compare with
            return ""
        if was is None or (math.isfinite(now) and (now >= was if kind.higher else now <= was)):
            return ""
        return (
            f"version {current} goes on answering: on the same rows its {metric} is {was:.4f}, the new one's {now:.4f}; "
            f"to use the new one nevertheless: propend models DIR --promote {name} VERSION"
        )

    def load(self, task: str, version: int | None = None) -> Fitted:
        """Read a version (the current one by default).

        Raises ``ModelError`` where there is none, or where its files are damaged, altered or of another format: a seal
        over the card and the model (SHA-256) must be the one they were saved with.
        """
        home = self.folder / task
        if not home.is_dir():
            known = (
                [p.name for p in self.folder.iterdir() if p.is_dir()]
                if self.folder.is_dir()
                else []
            )
            raise ModelError(f"no model was fitted for task {task!r}{nearest(task, known)}")
        chosen = version or self._current(home)
        folder = home / f"v{chosen}"
        _check_there(home, chosen)
        data = _read(folder, task, chosen)
        try:
            made = Fitted(
                _task(data),
                data["name"],
                catalog.load(folder / "model"),
                calibration.from_state(data["calibrator"]),
                _features(data),
                {int(j): tuple(values) for j, values in data["categories"].items()},
                data["threshold"],
                data["card"],
            )
            if made.name == FUSION:
                made.beside = kept_readouts(made.card, self.folder.parent, made.task.horizon.days)
            return made
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"version {chosen} of task {task!r} is incomplete ({error}); fit it again with propend run"
            ) from None

    def matching(self, task: Task, data_hash: str, seed: int) -> Fitted | None:
        """Return the current version of a task if it was fitted on these rows, this question, seed and code."""
        try:
            version = self._current(self.folder / task.name)
            data = _read(self.folder / task.name / f"v{version}", task.name, version)
            card = data["card"]
            same = (data["ask"], card["data_hash"], card["seed"], data["code"]) == (
                task.ask,
                data_hash,
                seed,
                code_state(),
            )
            return self.load(task.name) if same else None
        except (OSError, ValueError, KeyError, ModelError):
            return None

    def promote(self, task: str, version: int) -> None:
        """Make a version the one that scores.

        Raises ``ModelError`` where there is none of this number, or it cannot be loaded: the current one then stays.
        """
        home = self.folder / task
        _check_there(home, version)
        self.load(task, version)  # what cannot score must not become what scores
        self._make_current(home, version)

    def _make_current(self, home: Path, version: int, how: str = "promote") -> None:
        """Let a version score, and add a line to the history: when, how, which."""
        path, now = home / HISTORY, datetime.now(UTC).isoformat(timespec="seconds")
        if path.is_file():
            told = path.read_text(encoding="utf-8")
        else:  # a registry from before there was a history: it begins with what scores now
            told = f"{now} found {self._current(home)}\n" if (home / "current").is_file() else ""
        replace_text(home / "current", str(version))
        replace_text(path, f"{told}{now} {how} {version}\n")

    def rollback(self, task: str) -> int:
        """Make the version that scored before the current one score again; returns its number.

        It goes back along what has scored, one step a call; a version that was kept aside never scored and is not reached.
        Raises ``ModelError`` where nothing scored before it, or what did cannot be used any more.
        """
        home = self.folder / task
        before = self._scored(home)[:-1] if home.is_dir() else []
        if not before:
            raise ModelError(
                f"no earlier version of task {task!r} is known to have scored; choose one with: propend models DIR --promote TASK VERSION"
            )
        try:
            self.load(task, before[-1])
        except ModelError as error:
            raise ModelError(
                f"task {task!r} is not rolled back, for what scored before cannot be used: {error}; or choose another version with: propend models DIR --promote TASK VERSION"
            ) from None
        self._make_current(home, before[-1], "rollback")
        return before[-1]

    def _scored(self, home: Path) -> list[int]:
        """Return the versions that scored one after the other, up to the current one; what was rolled back is gone."""
        scored: list[int] = []
        try:
            lines = (home / HISTORY).read_text(encoding="utf-8").splitlines()
            steps = [(how, int(version)) for _, how, version in map(str.split, lines)]
        except FileNotFoundError:
            steps = []
        except ValueError:
            raise ModelError(
                f"what scored for task {home.name!r} is not known, {HISTORY} is damaged; choose a version with: propend models DIR --promote TASK VERSION"
            ) from None
        for how, version in steps:
            if how == "rollback":
                scored = scored[:-1]
            if scored[-1:] != [version]:
                scored.append(version)
        current = self._current(home)
        return scored if scored[-1:] == [current] else [*scored, current]

    def compare(self, task: str, first: int, second: int) -> dict[str, Any]:
        """Return the metrics of two versions side by side, and whether they were judged on the same data in the same tests."""
        a, b = self.load(task, first), self.load(task, second)
        data = a.task.ask == b.task.ask and a.card.get("data_hash") == b.card.get("data_hash")
        same = data and _same_tests(a.card, b.card)
        apart = "the same rows in other tests (folds or protocol)" if data else "different rows"
        metrics = {
            name: {str(first): value, str(second): b.card["metrics"].get(name)}
            for name, value in a.card["metrics"].items()
        }
        return {
            "task": task,
            "versions": [first, second],
            "champions": [a.name, b.name],
            "same_data": data,
            "same_tests": same,
            "note": "judged on the same rows"
            if same
            else f"judged on {apart}: differences are not a comparison of the models alone",
            "metrics": metrics,
            "intervals": {
                str(first): a.card.get("intervals", {}),
                str(second): b.card.get("intervals", {}),
            },
        }

    def entries(self) -> list[Entry]:
        """Return every version of every task, oldest first; one that was damaged or altered, its model's files included,
        stands there with its fault."""
        found = []
        for home in (
            sorted(p for p in self.folder.iterdir() if p.is_dir()) if self.folder.is_dir() else []
        ):
            current = self._current(home) if _versions(home) else 0
            for version in _versions(home):
                folder, fault = home / f"v{version}", ""
                try:
                    data = _read(folder, home.name, version)
                    storage.check(folder / "model")
                    made_at, champion = str(data["made_at"]), str(data["name"])
                    verdict = _verdict(data["card"])
                except (ModelError, KeyError) as error:
                    made_at, champion, verdict, fault = "", "damaged", "", str(error)
                found.append(
                    Entry(
                        home.name,
                        version,
                        folder,
                        made_at,
                        champion,
                        version == current,
                        verdict=verdict,
                        fault=fault,
                    )
                )
        return found

    def _current(self, home: Path) -> int:
        try:
            return int((home / "current").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            versions = _versions(home)
            if not versions:
                raise ModelError(
                    f"no model was fitted for task {home.name!r}; run: propend run"
                ) from None
            return versions[-1]


def _task(data: dict[str, Any]) -> Task:
    table = data["card"].get("table")
    if table is None:
        return Task.parse(data["task"], data["ask"], data["title"])
    from propend.learn.kept_table import TableTask

    return TableTask.of(data["task"], data["title"], table["label"], data["card"]["answer"])


def _features(data: dict[str, Any]) -> tuple[Expression, ...]:
    """Return the features: expressions of a log, or a table's columns under their own names."""
    if "table" not in data["card"]:
        return tuple(parse(text) for text in data["features"])
    return tuple(Field((name,)) for name in data["card"]["columns"])


def _same_tests(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether two cards' figures are of the same rows in the same folds, as far as both of them say."""
    return before.get("data_hash") == now.get("data_hash") and all(
        before[key] == now[key] for key in TESTS if key in before and key in now
    )


def _verdict(card: dict[str, Any]) -> str:
    return str(card.get("verdict", {}).get("answer", ""))


def _check_there(home: Path, version: int) -> None:
    """Raise ``ModelError`` for a version that never was, with those that are."""
    if not (home / f"v{version}").is_dir():
        kept = ", ".join(map(str, _versions(home))) or "none"
        raise ModelError(f"task {home.name!r} has no version {version}; it has {kept}")


def _read(folder: Path, task: str, version: int) -> dict[str, Any]:
    """Return what a version says of itself; raises ``ModelError`` where it is damaged or was altered."""
    try:
        data = json.loads((folder / "fitted.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        data = None
    if not isinstance(data, dict):
        raise ModelError(
            f"version {version} of task {task!r} is missing or damaged; fit it again with propend run"
        )
    if data.get("format") != FORMAT:
        raise ModelError(
            f"version {version} of task {task!r} has format {data.get('format')}, this code reads {FORMAT}; fit it again"
        )
    try:
        kept, now = (folder / "seal").read_text(encoding="utf-8"), _seal(folder)
    except OSError:
        kept, now = "", "missing"
    if kept != now:
        raise ModelError(
            f"version {version} of task {task!r} was changed after it was fitted (its seal does not fit); fit it again with propend run"
        )
    return data


def _seal(folder: Path) -> str:
    """Return the SHA-256 over what a version says of itself and the model's header, which seals the model's files."""
    whole = hashlib.sha256()
    for path in (folder / "fitted.json", folder / "model" / storage.HEADER):
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def _versions(home: Path) -> list[int]:
    return sorted(int(p.name[1:]) for p in home.glob("v*") if p.name[1:].isdigit())


def code_version() -> str:
    """Return the version of this package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("propend")
    except PackageNotFoundError:
        return "unknown"


@cache
def code_state(package: Path | None = None) -> str:
    """Return the version and a fingerprint of the package's sources: a model is another where the code is.

    >>> code_state() == code_state(), code_state().startswith(code_version() + "+")
    (True, True)
    """
    folder = package or Path(__file__).parents[1]
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        whole.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    return f"{code_version()}+{whole.hexdigest()[:12]}"


def plain(value: Any) -> Any:
    """Return a value as plain JSON: NumPy numbers as numbers, NaN and infinities as null.

    >>> plain({"a": float("nan"), "b": (1, 2)})
    {'a': None, 'b': [1, 2]}
    """
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value
