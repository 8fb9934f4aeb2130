"""How often Python looks for garbage while many records are read: seldom, as records leave none in cycles.

Invariant: what is held of a log while it is read is bounded, so what is found later is bounded too.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_OBJECTS = 50_000
"""So many objects more than before are made until Python looks; by itself it looks after some hundred, and a twelfth
of the time of a verification went into finding nothing."""


@contextmanager
def seldom_sought() -> Iterator[None]:
    """A time, or a function, in which Python looks for garbage less often; never more often than it was told to."""
    former = gc.get_threshold()
    gc.set_threshold(max(former[0], _OBJECTS) if former[0] else 0, *former[1:])
    try:
        yield
    finally:
        gc.set_threshold(*former)
