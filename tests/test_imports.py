"""The arrows of the architecture: ``ui → sandbox → guardrails``, no cycles, and heavy packages in one place each."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("guardrails", "sandbox", "ui")
HEAVY = {"ray", "torch", "transformers", "streamlit", "peft", "tokenizers", "safetensors"}
WORKER_MAY_USE = {"records", "codec", "canonical", "errors", "statistics", "sequential", "third_party"}


def modules():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            yield name, path


MODULES = dict(modules())


def imports_of(path: Path, *, everywhere: bool = True) -> set[str]:
    """Dotted names that a file imports; ``everywhere`` also counts imports inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if everywhere else iter(_at_import_time(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _at_import_time(tree: ast.Module) -> list[ast.stmt]:
    """Top-level statements, without those under ``if TYPE_CHECKING``."""
    statements = []
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            statements += node.orelse
        elif isinstance(node, ast.If | ast.Try):
            statements += node.body
        else:
            statements.append(node)
    return statements


def own_target(imported: str) -> str | None:
    """The module of ours that an import names, if it is one of ours."""
    parts = imported.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in MODULES:
            return name
    return None


@pytest.mark.parametrize(("package", "forbidden"), [("guardrails", {"sandbox", "ui"}), ("sandbox", {"ui"})])
def test_imports_follow_the_flow(package, forbidden):
    for name, path in MODULES.items():
        if name.split(".")[0] == package:
            wrong = {i for i in imports_of(path) if i.split(".")[0] in forbidden}
            assert not wrong, f"{name} imports {wrong}"


def test_guardrails_knows_no_heavy_package():
    for name, path in MODULES.items():
        if name.split(".")[0] == "guardrails":
            assert not {i for i in imports_of(path) if i.split(".")[0] in HEAVY}, name


@pytest.mark.parametrize(("heavy", "home"), [("ray", "sandbox.ray_runner"), ("streamlit", "ui.console")])
def test_each_heavy_package_has_one_home(heavy, home):
    users = {n for n, path in MODULES.items() if any(i.split(".")[0] == heavy for i in imports_of(path))}
    assert users, f"nobody uses {heavy}: this test has lost its subject"
    assert all(user == home or user.startswith(home + ".") for user in users), users


def test_workers_know_only_the_words_of_the_core():
    for name, path in MODULES.items():
        if name.startswith("sandbox.worker"):
            used = {i.split(".")[1] for i in imports_of(path) if i.startswith("guardrails.")}
            assert used <= WORKER_MAY_USE, f"{name} uses guardrails.{used - WORKER_MAY_USE}"


def test_no_cycles_between_modules():
    graph = {
        name: {t for i in imports_of(path, everywhere=False) if (t := own_target(i)) and t != name}
        for name, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " → ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for target in sorted(graph[name]):
                # A package's own __init__ may gather its parts; its parts may not need it back.
                if not name.startswith(target + "."):
                    visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_the_core_works_without_the_extras():
    """An auditor's install: no torch, ray, transformers or streamlit to be found anywhere."""
    program = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import guardrails.gate, guardrails.view, guardrails.decision_log.verify, guardrails.policy, guardrails.engine
import ui.cli.main
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
