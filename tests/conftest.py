"""Fixtures that several test files use."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attacked_log import eventful, waiting
from fakes import Site, memory_folder, policy
from hypothesis import settings
from postgresql_server import Server, start_server

# Runners say how wide their terminal is, and tables follow it; tests read them at their own width.
os.environ.pop("COLUMNS", None)
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


@pytest.fixture
def make(folder: Path) -> Iterator[Callable[..., Site]]:
    """Make workspaces with other people or another policy."""
    made: list[Site] = []

    def build(people: tuple[Any, ...] | None = None, **changes: str) -> Site:
        fields = {"people": people} if people else {}
        made.append(Site(folder / f"made-{len(made)}", source=policy(**changes), **fields))
        return made[-1]

    yield build
    for site in made:
        site.close()


@pytest.fixture(scope="session")
def history() -> Iterator[Site]:
    """A site with a history that has a bit of everything; never changed by a test."""
    yield from _kept(eventful)


@pytest.fixture(scope="session")
def story() -> Iterator[Site]:
    """A site where one proposal was promoted and others wait; never changed by a test."""
    yield from _kept(waiting)


def _kept(make: Callable[[Path], Site]) -> Iterator[Site]:
    folder = memory_folder()
    site = make(folder / "site")
    yield site
    site.close()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    """A PostgreSQL server for the whole session; see ``postgresql_server`` for when it is skipped."""
    server = start_server()
    yield server
    server.close()
