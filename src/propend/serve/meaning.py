"""What a stored batch means: its dialect's events, identity facts and refusals, whatever the dialect trips over."""

from __future__ import annotations

from collections.abc import Iterator

from propend.serve.dialects import BY_NAME
from propend.serve.dialects.port import EARLIEST, LATEST, BadBody, Event, Fact, Refused
from propend.serve.inbox import Batch

__all__ = ["meaning"]


def meaning(batch: Batch) -> Iterator[Event | Fact | Refused]:
    """Yield what a batch means; whatever its dialect trips over is refused with the reason, and the rest goes on."""
    try:
        for found in BY_NAME[batch.dialect].events(batch):
            if isinstance(found, Fact) and not EARLIEST < found.time < LATEST:
                continue  # the event that says it is refused with its original
            yield found
    except BadBody as error:
        yield Refused(reason=str(error), original=batch.body)
    except Exception as error:  # one batch must not stop all that come after it
        reason = f"the body has not the shape it should ({type(error).__name__})"
        yield Refused(reason=reason, original=batch.body)
