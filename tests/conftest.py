"""Fixtures that several test files use."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import Site, memory_folder
from hypothesis import settings
from postgresql_server import Server, start_server

settings.register_profile("interlock", deadline=None, print_blob=True)
settings.load_profile("interlock")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that is gone afterwards, in memory where that can be had."""
    made = memory_folder()
    yield made
    shutil.rmtree(made)


@pytest.fixture
def site(folder: Path) -> Iterator[Site]:
    """A set-up workspace with four people, one policy and one model."""
    made = Site(folder / "site")
    yield made
    made.close()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    """A PostgreSQL server for the whole session; see ``postgresql_server`` for when it is skipped."""
    server = start_server()
    yield server
    server.close()
