"""What tests of behaviour models share."""

from __future__ import annotations

import pytest


@pytest.fixture
def quick_pretraining(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever pretrains takes two epochs of small batches on one thread."""
    from propend.learn import behaviour

    plain = behaviour.pretraining_settings
    monkeypatch.setattr(
        behaviour,
        "pretraining_settings",
        lambda size: plain(size, epochs=2, tokens=512, threads=1),
    )
