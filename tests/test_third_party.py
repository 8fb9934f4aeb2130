"""guardrails.third_party: what other distributions bring, and learners among it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from guardrails import third_party
from guardrails.errors import InvalidInputError
from guardrails.records import ModelKind
from sandbox import orders
from sandbox.config import Recipe
from sandbox.worker.learners import load_learner

DOCS = Path(__file__).parent.parent / "docs" / "learner-authors.md"


def install(folder: Path, name: str, modules: dict[str, str], points: str, *, listed: bool = True) -> Path:
    """A distribution as an installer leaves it behind."""
    site = folder / "site-packages"
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)
    for path, text in modules.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    record = [*(modules if listed else ()), f"{info.name}/METADATA", f"{info.name}/entry_points.txt"]
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in record))
    return site


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """``acme-learners`` with the learner of docs/learner-authors.md, importable."""
    code = re.search(r"```python\n(# acme_learners\.py.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    assert code, "the example is gone from the docs"
    site = install(
        tmp_path,
        "acme-learners",
        {"acme_learners.py": code.group(1), "acme_broken.py": "raise RuntimeError('no')\n"},
        "[interlock.learners]\nshrink = acme_learners:shrink\nbroken = acme_broken:learn\nnumber = acme_learners:SHARE\n",
    )
    monkeypatch.syspath_prepend(str(site))
    yield site
    for name in ("acme_learners", "acme_broken"):
        sys.modules.pop(name, None)


def test_the_example_is_about_twenty_lines() -> None:
    code = re.search(r"```python\n(# acme_learners\.py.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    assert code
    assert len([line for line in code.group(1).splitlines() if line.strip()]) <= 25


def test_a_learner_is_loaded_only_by_its_name(brought: Path) -> None:
    found = third_party.find(third_party.LEARNERS, "acme-learners:shrink")
    assert (found.distribution, found.version) == ("acme-learners", "1.0")
    assert "acme_learners" not in sys.modules, "finding must not import"
    assert load_learner("acme-learners:shrink", ModelKind.LLM).__name__ == "shrink"


def test_its_bytes_are_on_record(brought: Path) -> None:
    recipe = Recipe("acme-learners:shrink")
    before = orders.ordered(recipe, ModelKind.LLM)
    assert before["learner.distribution"] == "acme-learners 1.0"
    (brought / "acme_learners.py").write_text("def shrink(task): return {}\n")
    after = orders.ordered(recipe, ModelKind.LLM)
    assert before["learner.code"] != after["learner.code"]
    assert {k: v for k, v in before.items() if k != "learner.code"} == {
        k: v for k, v in after.items() if k != "learner.code"
    }


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("absent-thing:shrink", "is not installed"),
        ("acme-learners:nothing", "no such entry point"),
        ("acme-learners:broken", "RuntimeError: no"),
        ("acme-learners:number", "a learner is a function"),
    ],
)
def test_what_cannot_be_had_is_refused(brought: Path, reference: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        load_learner(reference, ModelKind.LLM)


def test_a_check_of_that_name_is_not_a_learner(brought: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"no such entry point of interlock\.checks"):
        third_party.find(third_party.CHECKS, "acme-learners:shrink")


@pytest.mark.parametrize(
    "text", ["", "shrink", "acme:", ":x", "Acme:x", "../acme:x", "acme:x:y", "acme:x\n", "command:x"]
)
def test_only_distribution_and_name_is_a_reference(text: str) -> None:
    assert not third_party.is_reference(text)


def test_code_without_a_list_of_its_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = "[interlock.learners]\nshrink = acme_loose:shrink\n"
    site = install(tmp_path, "acme-loose", {"acme_loose.py": "def shrink(task): ...\n"}, points, listed=False)
    monkeypatch.syspath_prepend(str(site))
    with pytest.raises(InvalidInputError, match="does not list its modules"):
        third_party.find(third_party.LEARNERS, "acme-loose:shrink")


def test_a_listed_file_that_is_gone_is_refused(brought: Path) -> None:
    (brought / "acme_learners.py").unlink()
    with pytest.raises(InvalidInputError, match=r"acme_learners\.py"):
        third_party.find(third_party.LEARNERS, "acme-learners:shrink")
