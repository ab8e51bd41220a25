"""The models that answer: loaded from the registry, swapped without dropping a request, with a shadow beside them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from propend.errors import DataError, ModelError, nearest
from propend.events.timelines import Timelines
from propend.features.evaluate import Rows, Values, evaluate
from propend.features.program import Program
from propend.learn.intervals import bounder
from propend.learn.registry import Registry
from propend.learn.train import Fitted, Reason
from propend.serve.state import LiveState, plain_value
from propend.tasks.frame import More

__all__ = ["Answer", "Models", "Served"]


@dataclass(frozen=True)
class Answer:
    """A prediction for one user at one moment."""

    task: str
    version: int
    score: float
    interval: tuple[float, float] | None
    """Venn-Abers for yes/no, conformal for amounts; none where too little was held out to learn one."""
    asked: bool
    """Whether the user is in the task's population; the score is the model's all the same."""
    reasons: tuple[Reason, ...]
    missing: int
    """Features without a value."""


class Served:
    """One version of a task's model, with its features compiled for the state's schema."""

    def __init__(self, fitted: Fitted, version: int) -> None:
        self.fitted, self.version = fitted, version
        self._compiled: tuple[int, Program, list[int]] | None = None
        self._bounds = bounder(fitted.card.get("uncertainty", {}))
        self._codes = {j: {text: code for code, text in enumerate(known)} for j, known in fitted.categories.items()}  # fmt: skip
        self._features = (*fitted.features, fitted.task.population)

    def row(self, state: LiveState, user: str, at: int) -> tuple[npt.NDArray[np.float64], bool]:
        """Return the features [1, d] with the codes the model knows, and whether the user is in the population."""
        program, beyond = self._program(state)
        values = (
            None
            if beyond or self.fitted.beside is not None
            else program.run_block(*state.block(user, at), at, lambda: state.profile(user, at))
        )
        if values is None:
            t, profile = state.timelines(user, at), state.profile(user, at)
            if self.fitted.beside is not None:
                profile |= _beside(self.fitted.beside, state, user, t, at)
            values = program.run(t, at, profile)
            asked = [self.fitted.features[j] for j in beyond]
            answers = (
                evaluate(asked, t, Rows.of([0], [at]), state.schema, profile=profile)
                if beyond
                else []
            )
            for j, answer in zip(beyond, answers, strict=True):
                text = plain_value(answer)
                values[j] = self._codes[j].get(text, np.nan) if isinstance(text, str) else np.nan
        for j, texts in program.texts.items():
            if j in self._codes and values[j] == values[j]:  # the schema's code becomes the model's
                code = int(values[j])
                if code >= len(texts):  # an item that came since, with the next code
                    texts = state.schema.item_ids
                values[j] = self._codes[j].get(texts[code], np.nan)
        return values[:-1].reshape(1, -1), bool(values[-1] > 0)

    def _program(self, state: LiveState) -> tuple[Program, list[int]]:
        """Return the features compiled for the schema as it is, and the places of texts that the program cannot say.

        Threads see it with its version as one.
        """
        held, version = self._compiled, state.schema_version
        if held is None or held[0] != version:
            program = Program(self._features, state.schema)
            beyond = [j for j in self._codes if j not in program.texts]
            held = self._compiled = (version, program, beyond)
        return held[1], held[2]

    def warm(self) -> None:
        """Score and explain a row without values: what a model makes at its first use, no request has to wait for."""
        X = np.full((1, len(self.fitted.features)), np.nan)
        self.fitted.explained(X)
        self.fitted.score(X)

    def answer(self, state: LiveState, user: str, at: int, reasons: int = 3) -> Answer:
        """Return the prediction for a user at a moment."""
        X, asked = self.row(state, user, at)
        scores, why = self.fitted.explained(X, reasons) if reasons else (self.fitted.score(X), [[]])
        score = float(scores[0].max())  # of many answers, the likeliest one's
        low, high = (float(v[0]) for v in self._bounds([score]))
        span = None if np.isnan(low) else (low, high)
        missing = int(np.count_nonzero(np.isnan(X)))
        return Answer(
            self.fitted.task.name, self.version, score, span, asked, tuple(why[0]), missing
        )


def _beside(more: More, state: LiveState, user: str, t: Timelines, at: int) -> dict[str, Values]:
    """Return the features that are not the language's, as attributes of the person at a moment."""
    try:
        code = 0 if state.store is None else state.store.code_of(user)
    except DataError:  # somebody who came after the last move
        code = 0
    whose = replace(t, users=np.array([code], np.int64))
    found = more.values(whose, Rows.of([0], [at]), state.schema)
    return {name.removeprefix("profile."): values for name, values in found.items()}


class Models:
    """What the registry holds now. ``refresh`` loads what has changed, beside what is being used, and then swaps."""

    def __init__(self, folder: Path, shadow: Mapping[str, int] | None = None) -> None:
        self.registry = Registry(folder)
        self.folder = folder
        self._shadow_versions = dict(shadow or {})
        self._served: dict[str, Served] = {}
        self._shadows: dict[str, Served] = {}
        self._stamps: dict[str, Any] = {}
        self._lock = threading.Lock()
        self.faults: dict[str, str] = {}
        self.swaps = 0

    def refresh(self) -> list[str]:
        """Load the models whose current version has changed; returns their tasks. A damaged one leaves the old in place."""
        if not self.folder.is_dir():
            return []
        changed = []
        with self._lock:
            for home in sorted(p for p in self.folder.iterdir() if p.is_dir()):
                try:
                    stamp = (home / "current").stat().st_mtime_ns
                    version = int((home / "current").read_text(encoding="utf-8"))
                except (OSError, ValueError):
                    continue
                if self._stamps.get(home.name) == (stamp, version):
                    continue
                try:
                    fresh = Served(self.registry.load(home.name, version), version)
                    shadow = self._shadow_versions.get(home.name)
                    if shadow and shadow != version:
                        self._shadows = {
                            **self._shadows,
                            home.name: Served(self.registry.load(home.name, shadow), shadow),
                        }
                    fresh.warm()
                except ModelError as error:
                    self.faults[home.name] = str(error)
                    continue
                self._stamps[home.name] = (stamp, version)
                self._served = {**self._served, home.name: fresh}
                self.faults.pop(home.name, None)
                self.swaps += 1
                changed.append(home.name)
        return changed

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that can be answered."""
        return tuple(self._served)

    def of(self, task: str) -> Served:
        """Return the model of a task; raises ``ModelError`` that names the nearest one."""
        try:
            return self._served[task]
        except KeyError:
            raise ModelError(
                f"no model answers task {task!r}{nearest(task, self._served)}"
            ) from None

    def shadow(self, task: str) -> Served | None:
        """Return the model that answers silently beside the current one."""
        return self._shadows.get(task)
