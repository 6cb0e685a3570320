"""Observers are told every event in their order, and each is closed whatever the others do."""

from __future__ import annotations

import pytest

from trainer.watching.observer import Observer, Observers


def events() -> list[str]:
    return [name for name in vars(Observer) if not name.startswith("_")]


class Recording(Observer):
    """Writes the events that it is told to a list."""

    def __init__(self, name: str, heard: list[tuple[str, str]]) -> None:
        for event in events():
            setattr(self, event, lambda *_, event=event, **__: heard.append((name, event)))


@pytest.mark.parametrize("event", events())
def test_every_event_reaches_every_observer_in_order(event):
    heard: list[tuple[str, str]] = []
    both = Observers(Recording("first", heard), Recording("second", heard))
    both.tell(getattr(Observer, event), 1, last=True)
    assert heard == [("first", event), ("second", event)]


def test_an_observer_that_fails_to_close_keeps_no_other_open():
    class Failing(Observer):
        def close(self) -> None:
            raise OSError("disk full")

    heard: list[tuple[str, str]] = []
    with pytest.raises(OSError, match="disk full"):
        Observers(Recording("a", heard), Failing(), Recording("b", heard)).close()
    assert heard == [("a", "close"), ("b", "close")]
