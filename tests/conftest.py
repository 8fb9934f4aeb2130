"""Fixtures that several test files use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import Site
from hypothesis import settings

settings.register_profile("interlock", deadline=None, print_blob=True)
settings.load_profile("interlock")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A set-up workspace with four people, one policy and one model."""
    made = Site(tmp_path / "site")
    yield made
    made.close()
