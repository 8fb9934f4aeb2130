"""guardrails.third_party: what other distributions bring, and learners among it."""

from __future__ import annotations

import importlib.util
import marshal
import py_compile
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from guardrails import third_party
from guardrails.errors import InvalidInputError, UnknownNameError
from guardrails.records import ModelKind
from sandbox import orders
from sandbox.config import Recipe
from sandbox.worker.learners import load_learner
from ui.cli.jobs import require_learner

DOCS = Path(__file__).parent.parent / "docs" / "learner-authors.md"
EXAMPLE = re.compile(r"```python\n(# acme_learners\.py.*?)```", re.DOTALL)


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
    code = EXAMPLE.search(DOCS.read_text("utf-8"))
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
    code = EXAMPLE.search(DOCS.read_text("utf-8"))
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


def test_the_command_line_knows_it_where_it_is_installed(brought: Path) -> None:
    require_learner("acme-learners:shrink")
    for reference in ("acme-learners:nothing", "absent-thing:shrink"):
        with pytest.raises(InvalidInputError):
            require_learner(reference)
    with pytest.raises(UnknownNameError):
        require_learner("shrink")


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


def test_an_editable_install_is_refused_though_it_lists_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = "[interlock.learners]\nshrink = acme_edited:shrink\n"
    finder = "__editable___acme_edited_finder.py"
    site = install(tmp_path, "acme-edited", {finder: "MAPPING = {}\n"}, points)
    (site / "acme_edited.py").write_text("def shrink(task): ...\n")
    monkeypatch.syspath_prepend(str(site))
    with pytest.raises(InvalidInputError, match="does not list its modules"):
        third_party.find(third_party.LEARNERS, "acme-edited:shrink")


def test_a_compiled_file_that_says_something_else_is_refused(brought: Path) -> None:
    source = brought / "acme_learners.py"
    compiled = Path(py_compile.compile(str(source), doraise=True) or "")
    honest = third_party.find(third_party.LEARNERS, "acme-learners:shrink").code
    body = marshal.dumps(compile("def shrink(task): return 'something else'\n", str(source), "exec"))
    compiled.write_bytes(compiled.read_bytes()[:16] + body)
    with pytest.raises(InvalidInputError, match="not what it says"):
        third_party.find(third_party.LEARNERS, "acme-learners:shrink")
    unchecked = (1).to_bytes(4, "little") + bytes(8)
    compiled.write_bytes(importlib.util.MAGIC_NUMBER + unchecked + body)
    with pytest.raises(InvalidInputError, match="not what it says"):
        third_party.find(third_party.LEARNERS, "acme-learners:shrink")
    compiled.write_bytes(importlib.util.MAGIC_NUMBER + bytes(12) + body)
    assert third_party.find(third_party.LEARNERS, "acme-learners:shrink").code == honest, (
        "stale: it never runs"
    )


def test_a_module_without_source_is_on_record(brought: Path) -> None:
    record = brought / "acme_learners-1.0.dist-info" / "RECORD"
    record.write_text(record.read_text() + "acme_hidden.pyc,,\n")
    codes = set()
    for text in ("A = 1", "A = 2"):
        (brought / "acme_hidden.pyc").write_bytes(text.encode())
        codes.add(third_party.find(third_party.LEARNERS, "acme-learners:shrink").code)
    assert len(codes) == 2


def test_a_module_of_the_same_name_elsewhere_is_not_taken_for_it(
    brought: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = third_party.find(third_party.LEARNERS, "acme-learners:shrink")
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "acme_learners.py").write_text("def shrink(task): return 'mine'\n")
    monkeypatch.syspath_prepend(str(tmp_path / "first"))
    with pytest.raises(InvalidInputError, match="was imported from"):
        found.load()


def test_a_listed_file_that_is_gone_is_refused(brought: Path) -> None:
    (brought / "acme_learners.py").unlink()
    with pytest.raises(InvalidInputError, match=r"acme_learners\.py"):
        third_party.find(third_party.LEARNERS, "acme-learners:shrink")
