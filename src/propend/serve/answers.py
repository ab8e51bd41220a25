"""What is answered about users: the same work for one and for many, on a live workspace."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from propend.errors import PropendError
from propend.expression.nodes import Expression, Probability
from propend.expression.parse import parse
from propend.learn.registry import plain
from propend.serve.live import Live
from propend.serve.log import Decided, Predicted
from propend.serve.models import Answer
from propend.serve.state import plain_value

__all__ = ["Answers", "Fault", "now"]

_NOW: Final = 60_000_000
"""Microseconds around this moment that count as now."""


class Fault(PropendError):  # noqa: N818 - an answer, not an accident
    """Why something is not answered, with the HTTP status that says so."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Answers:
    """Answers from a :class:`~propend.serve.live.Live`. Every verb joins the timelines of all ids of a person.

    Moments are UTC microseconds. Verbs raise :class:`Fault`, or the errors of what they ask.
    """

    def __init__(self, live: Live) -> None:
        self.live = live
        self._typical: tuple[int, float | None] = (-1, None)

    def each(
        self, users: Sequence[str], work: Callable[[str], dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return one answer per user, in order; where there is none, why."""
        found: list[dict[str, Any]] = []
        for user in users:
            try:
                found.append(work(user))
            except PropendError as error:
                found.append({"user": user, "error": str(error)})
        return found

    def profile(self, user: str, at: int) -> dict[str, Any]:
        """Return what is known of a user: attributes, counts by event type, first and last event, last items."""
        state = self.live.state
        t = state.timelines(user, at).before(at)
        if not len(t) and not state.knows(user):
            raise Fault(404, f"no user {user!r}; ids are matched letter by letter")
        counts = np.bincount(t.type, minlength=len(state.schema.types))
        traits = {name: plain_value(values) for name, values in state.profile(user, at).items()}
        items = [
            state.schema.item_ids[i] for i in dict.fromkeys(t.item[t.item >= 0][::-1][:50].tolist())
        ]
        return {
            "user": user, "at": at, "events": len(t), "first": int(t.time[0]) if len(t) else None, "last": int(t.time[-1]) if len(t) else None,
            "types": {state.schema.types[c]: int(n) for c, n in enumerate(counts) if n}, "last_items": items[:10],
            "attributes": traits, "ids": list(state.identity.ids(user, at)),
        }  # fmt: skip

    def checked(self, text: str) -> Expression:
        """Return an expression that can be asked now; raises ``ExpressionError`` naming the nearest known word."""
        try:
            asked = _parsed(text)
        except RecursionError:
            raise Fault(400, "the expression is nested too deep") from None
        self.live.state.schema.check(asked, forward=False)
        return asked

    def value(self, asked: Expression, user: str, at: int) -> dict[str, Any]:
        """Return an expression's value; ``p(task)`` in it is the current model's score."""
        return {"user": user, "at": at, "value": self._value(asked, user, at)}

    def member(self, asked: Expression, user: str, at: int) -> dict[str, Any]:
        """Return whether an expression holds."""
        found = self._value(asked, user, at)
        return {"user": user, "at": at, "member": found is not None and found != 0}

    def _value(self, asked: Expression, user: str, at: int) -> float | str | None:
        tasks = {part.task for part in asked.parts() if isinstance(part, Probability)}
        scores = {
            task: self.live.models.of(task).answer(self.live.state, user, at, 0).score
            for task in tasks
        }
        found = self.live.state.value(asked, user, at, scores)
        return found if isinstance(found, str) else plain(found)

    def prediction(self, task: str, user: str, at: int, reasons: int) -> dict[str, Any]:
        """Return a prediction from the current model; it is logged, and the shadow model's silently beside it.

        What is asked about another moment than now is not logged: it is no live answer.
        """
        live = self.live
        logged = abs(now() - at) < _NOW
        answer = live.models.of(task).answer(live.state, user, at, reasons)
        if logged:
            live.log.predicted(_row(user, at, answer, 0))
            shadow = live.models.shadow(task)
            if shadow is not None:
                live.log.predicted(_row(user, at, shadow.answer(live.state, user, at, 0), 1))
        return _prediction(user, at, answer)

    def recommendations(
        self, user: str, at: int, k: int, *, reasons: bool = False
    ) -> dict[str, Any]:
        """Return what to offer a user, from the items of the timeline up to the last event; with ``reasons``, why."""
        t = self.live.state.timelines(user, at)
        return {"user": user, "at": at, "items": self._offers(t.item[t.item >= 0], k, reasons)}

    def session(
        self, items: Sequence[str], at: int, k: int, *, reasons: bool = False
    ) -> dict[str, Any]:
        """Return what to offer in an anonymous session of items, oldest first; with ``reasons``, why."""
        known = self.live.state._item_codes
        codes = np.array([known[i] for i in items[-500:] if i in known], np.int64)
        return {"at": at, "items": self._offers(codes, k, reasons, sessions=True)}

    def _offers(
        self, items: npt.NDArray[Any], k: int, reasons: bool, *, sessions: bool = False
    ) -> list[dict[str, Any]]:
        offers = self.live.recommender
        if offers is None:
            raise Fault(
                404,
                "there is nothing to recommend yet: the offers are still being fitted, or no stored event carries an item",
            )
        fitted, ids, names = offers.sessions if sessions else offers.users, offers.ids, offers.names
        session = np.asarray(items[items < len(ids)][-200:], np.int64)
        shown = fitted.recommend([session], min(k, len(ids)), within=offers.within)
        there = shown.items[0] >= 0
        pairs = zip(shown.items[0][there].tolist(), shown.scores[0][there].tolist(), strict=True)
        found: list[dict[str, Any]] = [
            {"rank": rank, "item": ids[i], "name": names[i], "score": plain(score)}
            for rank, (i, score) in enumerate(pairs, 1)
        ]
        if reasons:
            from propend.recommend.batch import session_reasons

            told = session_reasons(fitted, shown, session.tolist(), names)
            for offer, reason in zip(found, told, strict=True):
                offer["reason"] = reason
        return found

    def identity(self, user: str, at: int) -> dict[str, Any]:
        """Return who a user is, and by which facts."""
        who = self.live.identity
        return {"user": user, "ids": list(who.ids(user, at)), "facts": who.facts(user)}

    # ---- decisions

    def decisions(self, users: Sequence[str], at: int) -> list[dict[str, Any]]:
        """Decide about users, one answer each in order; every decision is in the log before it is returned.

        There is no budget here: a push is weighed by itself, so that many at once are decided as each alone. Raises
        :class:`Fault` where no model or no value can be weighed.
        """
        from propend.decide.policy import consent_of, decide
        from propend.names import USER

        live, config = self.live, self.live.workspace.config
        task = self._deciding()
        gone = live.state.forgotten.among(users)
        asked = [u for u in dict.fromkeys(users) if u not in gone]
        found: dict[str, dict[str, Any]] = {}
        if asked:
            answers = [live.models.of(task).answer(live.state, u, at, 0) for u in asked]
            consent = consent_of(live.state.traits.table, USER, asked)
            willing = np.array([not live.state.denied(u, at) for u in asked], np.bool_)
            made = decide(
                asked, [a.score for a in answers], [self._worth(u, at) for u in asked],
                msgspec.structs.replace(config.decide, budget=None), now=at, zone=live.workspace.zone,
                consent=willing if consent is None else willing & consent,
                salt=f"{config.workspace.name}-{config.workspace.seed}", currency=config.workspace.currency,
            )  # fmt: skip
            decided = []
            for user, answer in zip(asked, answers, strict=True):
                one = made.of(user)
                detail = {
                    "task": task, "version": answer.version, "item": one.item, "channel": one.channel, "group": one.group,
                    "probability": one.probability, "expected_profit": plain(one.expected_profit), "push_propensity": one.push_propensity,
                    "policy": one.policy, "reason": one.reason,
                }  # fmt: skip
                decided.append(Decided(user, one.action, one.propensity, detail))
            for number, one_user in zip(live.log.decide(at, decided), decided, strict=True):
                user, action, propensity, detail = one_user
                found[user] = {"number": number, "user": user, "at": at, "action": action, "propensity": propensity, **detail}  # fmt: skip
        return [found.get(u) or {"user": u, "error": "this user was erased"} for u in users]

    def _deciding(self) -> str:
        """Return the task whose probability drives decisions."""
        models = self.live.models
        yes_no = [t for t in models.tasks if models.of(t).fitted.task.answer == "yes_no"]
        task = self.live.workspace.config.decide.task or next(
            (t for t in yes_no if "purchase" in models.of(t).fitted.task.ask), ""
        )
        if not task:
            raise Fault(409, "no yes/no model about purchases answers yet; run: propend run")
        return task

    def _worth(self, user: str, at: int) -> float:
        """Return what a purchase of a user is worth: their own mean, else everybody's."""
        state = self.live.state
        if "purchase" in state.schema.types:
            value = state.value(_parsed("mean(purchase.value)"), user, at)
            if isinstance(value, float) and value > 0:
                return value
        value = self._typical_value()
        if value is None:
            raise Fault(
                409,
                "no purchase in the log has a value, so no push can be weighed against its cost",
            )
        return value

    def _typical_value(self) -> float | None:
        """Return the mean value of a purchase in the store, worked out once per store."""
        store = self.live.state.store
        if store is None or "purchase" not in store.types or "value" not in store.manifest.columns:
            return None
        if self._typical[0] != store.manifest.generation:
            purchase = store.types.index("purchase")
            total = n = 0.0
            for bucket in range(store.buckets):
                t = store.timelines(bucket, ["value"])
                values = t.numbers["value"][t.type == purchase]
                total, n = total + float(np.nansum(values)), n + float(np.isfinite(values).sum())
            self._typical = (store.manifest.generation, total / n if n else None)
        return self._typical[1]


def now() -> int:
    """Return this moment in UTC microseconds."""
    return clock.time_ns() // 1_000


@lru_cache(maxsize=2_048)
def _parsed(text: str) -> Expression:
    return parse(text)


def _row(user: str, at: int, answer: Answer, shadow: int) -> Predicted:
    return Predicted(at, user, answer.task, answer.version, answer.score, shadow, answer.missing, int(answer.asked))  # fmt: skip


def _prediction(user: str, at: int, answer: Answer) -> dict[str, Any]:
    return {
        "user": user, "task": answer.task, "at": at, "version": answer.version, "score": plain(answer.score), "interval": answer.interval,
        "in_population": answer.asked, "missing": answer.missing,
        "reasons": [{"feature": r.feature, "words": r.words, "value": plain(r.value), "effect": plain(r.effect)} for r in answer.reasons],
    }  # fmt: skip
