"""Removing checks one at a time: a pytest plugin, and the mutants of a module.

A *check* is a ``raise`` of ours, one of several conditions before it, or a call whose only purpose is to raise
(``require_…``, ``check_…``, ``verify_…``). A mutant is a module without one of them, made from its syntax tree in
memory: no file is touched. As a plugin (``-p mutants``) this either notes which tests reach which check
(``MUTANTS_SEEN=file``), or runs with one of them removed (``MUTANT=module:number``).
"""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

CHECKED = (
    "guardrails.decision_log.verify", "guardrails.decision_log.envelope", "guardrails.decision_log.checkpoint",
    "guardrails.decision_log.cosignature", "guardrails.decision_log.coverage", "guardrails.decision_log.proof",
    "guardrails.decision_log.texts", "guardrails.decision_log.merkle", "guardrails.decision_log.roots",
    "guardrails.decision_log.keys", "guardrails.decision_log.sshsig", "guardrails.decision_log.snapshot",
    "guardrails.decision_log.bundle", "guardrails.decision_log.witness", "guardrails.canonical", "guardrails.codec",
    "guardrails.ledger.asked", "guardrails.ledger.champions", "guardrails.ledger.erasure", "guardrails.ledger.forms",
    "guardrails.ledger.line", "guardrails.ledger.people", "guardrails.ledger.removal", "guardrails.ledger.requests",
    "guardrails.ledger.roster", "guardrails.ledger.rows", "guardrails.ledger.standing", "guardrails.ledger.subjects",
    "guardrails.ledger.transitions", "guardrails.ledger.votes", "guardrails.ledger.waivers",
)  # fmt: skip
"""The verifier and whatever it runs: where a check that nobody would miss is a hole."""

_CALLS = ("require", "check", "verify", "enter")


@dataclass(frozen=True)
class Mutant:
    """One check of a module; ``part`` is the condition that is dropped, -1 for the whole check."""

    module: str
    number: int
    line: int
    part: int
    text: str

    @property
    def name(self) -> str:
        """What ``MUTANT`` names it by."""
        return f"{self.module}:{self.number}"


def source_of(module: str) -> str:
    """The text of a module."""
    path = ROOT / (module.replace(".", "/") + ".py")
    return path.read_text(encoding="utf-8")


def _checks(tree: ast.Module) -> Iterator[tuple[ast.stmt, ast.If | None]]:
    """Every check, with the ``if`` that it is the only statement of, in the order of the file."""
    owners = {
        id(node.body[-1]): node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise)
    }
    found = [
        node for node in ast.walk(tree)
        if (isinstance(node, ast.Raise) and node.exc is not None) or _is_call(node)
    ]  # fmt: skip
    for node in sorted(found, key=lambda item: (item.lineno, item.col_offset)):
        yield node, owners.get(id(node))


def _is_call(node: ast.AST) -> bool:
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return False
    called = node.value.func
    name = (
        called.attr
        if isinstance(called, ast.Attribute)
        else called.id
        if isinstance(called, ast.Name)
        else ""
    )
    return name.lstrip("_").startswith(_CALLS)


def mutants(module: str) -> list[Mutant]:
    """Every check of a module that can be removed."""
    made: list[Mutant] = []
    for node, owner in _checks(ast.parse(source_of(module))):
        text = " ".join(ast.unparse(owner.test if owner else node).split())
        made.append(Mutant(module, len(made), node.lineno, -1, text))
        if owner and isinstance(owner.test, ast.BoolOp) and isinstance(owner.test.op, ast.Or):
            for part, value in enumerate(owner.test.values):
                made.append(
                    Mutant(
                        module, len(made), node.lineno, part, f"or: {' '.join(ast.unparse(value).split())}"
                    )
                )
    return made


class _Remover(ast.NodeTransformer):
    def __init__(self, nodes: set[int]) -> None:
        self.nodes = nodes

    def generic_visit(self, node: ast.AST) -> Any:
        if id(node) in self.nodes:
            return ast.copy_location(ast.Pass(), node)
        return super().generic_visit(node)


def mutated(module: str, number: int) -> ast.Module:
    """The module without one check."""
    tree = ast.parse(source_of(module))
    count = 0
    for node, owner in _checks(tree):
        if count == number:
            return ast.fix_missing_locations(_Remover({id(node)}).visit(tree))
        count += 1
        if owner and isinstance(owner.test, ast.BoolOp) and isinstance(owner.test.op, ast.Or):
            parts = len(owner.test.values)
            if count <= number < count + parts:
                kept = [value for at, value in enumerate(owner.test.values) if at != number - count]
                owner.test = kept[0] if len(kept) == 1 else ast.BoolOp(ast.Or(), kept)
                return ast.fix_missing_locations(tree)
            count += parts
    raise IndexError(f"{module} has no check {number}")


def _marked(module: str) -> ast.Module:
    """The module, noting each check at which it refuses something."""
    tree = ast.parse(source_of(module))
    lines = {}
    for node, _ in _checks(tree):
        lines[id(node)] = node.lineno

    class Marker(ast.NodeTransformer):
        def generic_visit(self, node: ast.AST) -> Any:
            node = super().generic_visit(node)
            if id(node) not in lines:
                return node
            mark = ast.parse(f"__import__('mutants').seen({module!r}, {lines[id(node)]})").body[0]
            if isinstance(node, ast.Raise):
                return [ast.copy_location(mark, node), node]
            tried = ast.Try(
                [node],
                [ast.ExceptHandler(ast.Name("BaseException", ast.Load()), None, [mark, ast.Raise()])],
                [],
                [],
            )
            return ast.copy_location(tried, node)

    return ast.fix_missing_locations(Marker().visit(tree))


# --- as a plugin ------------------------------------------------------------------------------

_reached: set[str] = set()


def seen(module: str, line: int) -> None:
    """A test has come to a check that refuses."""
    _reached.add(f"{module}:{line}")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, trees: dict[str, ast.Module]) -> None:
        self._trees = trees

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in self._trees:
            return None
        origin = str(ROOT / (name.replace(".", "/") + ".py"))
        spec = importlib.machinery.ModuleSpec(name, self, origin=origin)
        spec.has_location = True
        return spec

    def exec_module(self, module: Any) -> None:
        name = module.__spec__.name
        exec(compile(self._trees[name], module.__spec__.origin, "exec"), module.__dict__)


class _Notes:
    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._tests: dict[str, Any] = {}

    def pytest_runtest_setup(self, item: Any) -> None:
        _reached.clear()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" and report.passed:
            # The history that a whole file shares is made again in each run without a check.
            shared = 20.0 if "test_verify.py" in report.nodeid else 0.0
            self._tests[report.nodeid] = {"reached": sorted(_reached), "seconds": shared + report.duration}

    def pytest_sessionfinish(self) -> None:
        self._path.write_text(json.dumps(self._tests), encoding="utf-8")


def pytest_configure(config: Any) -> None:
    """Keep what the tests reach, where that is asked for."""
    if "MUTANTS_SEEN" in os.environ:
        config.pluginmanager.register(_Notes(os.environ["MUTANTS_SEEN"]))


def _begin() -> None:
    """Mark every check, or remove one: before ``conftest`` imports anything of ours."""
    if "MUTANTS_SEEN" in os.environ:
        sys.meta_path.insert(0, _Finder({module: _marked(module) for module in CHECKED}))
    elif "MUTANT" in os.environ:
        module, _, number = os.environ["MUTANT"].partition(":")
        sys.meta_path.insert(0, _Finder({module: mutated(module, int(number))}))


_begin()


# --- as a server: one fork for each run, so that what is not ours is imported once ----------------


def serve() -> None:
    """Read ``{"mutant": name, "tests": [...]}`` a line; answer with the exit status of pytest."""
    import pytest

    for name in ("cryptography.hazmat.primitives.asymmetric.ed25519", "hypothesis", "jsonschema", "numpy", "yaml",
                 "sqlalchemy.dialects.sqlite"):  # fmt: skip
        importlib.import_module(name)
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            os.environ["MUTANT"] = job["mutant"]
            os._exit(
                int(
                    pytest.main(
                        [
                            "-q",
                            "-x",
                            "-p",
                            "mutants",
                            "-p",
                            "no:cacheprovider",
                            "-o",
                            "timeout=90",
                            *job["tests"],
                        ]
                    )
                )
            )
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
