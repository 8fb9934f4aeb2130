"""Removing checks one at a time: the mutants of a module, and a pytest plugin that makes and runs them.

A *check* is a ``raise`` of ours, one of several conditions before it, a call whose only purpose is to raise
(``require_…``, ``check_…``, ``verify_…``), or an early ``return`` of a reason in a function that somebody raises for.
A mutant is a module without one of them, made from its syntax tree in memory: no file is touched.

The plugin (``-p mutants``, with ``MUTANTS=report.json``) makes one run of the given tests, in which every check notes
when it refuses something. Right after each test it is run again in a forked child for every check that refused
something in it and that no test has missed yet: the child takes the check out (by exchanging the code of the functions
that are loaded), and ends. So a check costs about one short test, nothing is imported twice, and a mutant that never
ends or eats memory ends its own child only. A test whose control (the same child with nothing taken out) fails is not
used.
"""

from __future__ import annotations

import ast
import collections
import functools
import gc
import importlib.abc
import importlib.machinery
import json
import os
import resource
import select
import signal
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import hypothesis

ROOT = Path(__file__).parent.parent

CHECKED = (
    "guardrails.decision_log.verify", "guardrails.decision_log.envelope", "guardrails.decision_log.checkpoint",
    "guardrails.decision_log.cosignature", "guardrails.decision_log.coverage", "guardrails.decision_log.proof",
    "guardrails.decision_log.texts", "guardrails.decision_log.merkle", "guardrails.decision_log.roots",
    "guardrails.decision_log.succession", "guardrails.decision_log.keys", "guardrails.decision_log.sshsig",
    "guardrails.decision_log.entry", "guardrails.decision_log.growth", "guardrails.decision_log.readers",
    "guardrails.decision_log.scratch", "guardrails.decision_log.plain", "guardrails.decision_log.crew",
    "guardrails.decision_log.snapshot", "guardrails.decision_log.bundle",
    "guardrails.decision_log.witness",
    "guardrails.canonical", "guardrails.codec", "guardrails.answers",
    "guardrails.ledger.answers", "guardrails.ledger.asked", "guardrails.ledger.budgets", "guardrails.ledger.champions",
    "guardrails.ledger.erasure", "guardrails.ledger.forms", "guardrails.ledger.judging", "guardrails.ledger.line",
    "guardrails.ledger.people", "guardrails.ledger.removal", "guardrails.ledger.requests",
    "guardrails.ledger.roster", "guardrails.ledger.rows", "guardrails.ledger.standing", "guardrails.ledger.subjects",
    "guardrails.ledger.transitions", "guardrails.ledger.votes", "guardrails.ledger.waivers",
)  # fmt: skip
"""The verifier and whatever it runs: where a check that nobody would miss is a hole."""

CPU_SECONDS = 10
WALL_SECONDS = 180
MEMORY = 2 << 30
"""What one child may use: more than ten times what the dearest of these tests does."""

_CALLS = ("require", "check", "verify", "enter")
_ANSWERING = ("obstacle", "state_of", "recompute")
_STATES = ("RequestState",)
"""Functions whose answer decides whether something is refused; what others return is only shown."""


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
        """What ``REDUNDANT`` names it by."""
        return f"{self.module}: {self.text}"


@functools.cache
def source_of(module: str) -> str:
    """The text of a module, the same throughout a run."""
    path = ROOT / (module.replace(".", "/") + ".py")
    return path.read_text(encoding="utf-8")


# --- what can be removed ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Check:
    node: ast.stmt
    owner: ast.If | None
    number: int

    @property
    def parts(self) -> list[ast.expr]:
        """The conditions of which any one is enough, if there are several."""
        test = self.owner.test if self.owner else None
        return test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or) else []


def _checks(tree: ast.Module) -> Iterator[_Check]:
    """Every check, with the ``if`` that it ends, in the order of the file; ``number`` is that of its first mutant."""
    owners = {id(node.body[-1]): node for node in ast.walk(tree) if isinstance(node, ast.If)}
    deciding = (
        inside for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name in _ANSWERING for inside in ast.walk(node)
    )  # fmt: skip
    alone = {id(node.body[0]) for node in deciding if isinstance(node, ast.If) and len(node.body) == 1}
    found = [
        node for node in ast.walk(tree)
        if (isinstance(node, ast.Raise) and node.exc is not None)
        or _is_call(node) or (_is_reason(node) and id(node) in alone)
    ]  # fmt: skip
    number = 0
    for node in sorted(found, key=lambda item: (item.lineno, item.col_offset)):
        check = _Check(node, None if _is_call(node) else owners.get(id(node)), number)
        yield check
        number += 1 + len(check.parts)


def _is_call(node: ast.AST) -> bool:
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return False
    called = node.value.func
    name = getattr(called, "attr", "") or getattr(called, "id", "")
    return name.lstrip("_").startswith(_CALLS)


def _is_reason(node: ast.AST) -> bool:
    if not isinstance(node, ast.Return):
        return False
    value = node.value
    if isinstance(value, ast.Attribute):
        return isinstance(value.value, ast.Name) and value.value.id in _STATES
    return isinstance(value, ast.JoinedStr)


def mutants(module: str) -> list[Mutant]:
    """Every check of a module that can be removed."""
    made: list[Mutant] = []
    for check in _checks(ast.parse(source_of(module))):
        text = _text(check.owner.test if check.owner else check.node)
        made.append(Mutant(module, len(made), check.node.lineno, -1, text))
        for part, value in enumerate(check.parts):
            made.append(Mutant(module, len(made), check.node.lineno, part, f"or: {_text(value)}"))
    return made


def _text(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())


class _Exchange(ast.NodeTransformer):
    """Put other nodes in the place of some."""

    def __init__(self, others: dict[int, Any]) -> None:
        self.others = others

    def generic_visit(self, node: ast.AST) -> Any:
        inside = super().generic_visit(node)
        make = self.others.get(id(node))
        return make(inside) if make else inside


def _never(node: Any) -> ast.stmt:
    # The names stay: a function must keep the variables of those around it for its code to be exchanged.
    return ast.copy_location(ast.If(ast.Constant(False), [node], []), node)


def _false(node: Any) -> ast.expr:
    # Still computed: a condition that reads on must not leave what it read to the next one.
    return ast.copy_location(ast.BoolOp(ast.And(), [node, ast.Constant(False)]), node)


def mutated(module: str, number: int) -> ast.Module:
    """The module without one check; a number below 0: the module as it is."""
    tree = ast.parse(source_of(module))
    if number < 0:
        return tree
    for check in _checks(tree):
        at = number - check.number - 1
        if at == -1:
            return ast.fix_missing_locations(_Exchange({id(check.node): _never}).visit(tree))
        if 0 <= at < len(check.parts):
            return ast.fix_missing_locations(_Exchange({id(check.parts[at]): _false}).visit(tree))
    raise IndexError(f"{module} has no check {number}")


# --- which test comes to which check ------------------------------------------------------------

_reached: set[tuple[str, int]] = set()


def seen(module: str, number: int, value: Any = True) -> Any:
    """A test has come to a check that refuses, or to the condition that makes it refuse."""
    if value:
        _reached.add((module, number))
    return value


def _marked(module: str) -> ast.Module:
    """The module, noting each check at which it refuses something."""
    tree = ast.parse(source_of(module))
    others: dict[int, Any] = {}

    def mark(number: int) -> ast.stmt:
        return ast.parse(f"__import__('mutants').seen({module!r}, {number})").body[0]

    def before(number: int) -> Any:
        return lambda node: [ast.copy_location(mark(number), node), node]

    def around(number: int) -> Any:
        caught = [ast.ExceptHandler(ast.Name("BaseException", ast.Load()), None, [mark(number), ast.Raise()])]
        return lambda node: ast.copy_location(ast.Try([node], caught, [], []), node)

    def condition(number: int) -> Any:
        called = ast.parse(f"__import__('mutants').seen({module!r}, {number})", mode="eval").body
        assert isinstance(called, ast.Call)
        return lambda node: ast.copy_location(ast.Call(called.func, [*called.args, node], []), node)

    for check in _checks(tree):
        others[id(check.node)] = (around if _is_call(check.node) else before)(check.number)
        for at, part in enumerate(check.parts):
            others[id(part)] = condition(check.number + 1 + at)
    return ast.fix_missing_locations(_Exchange(others).visit(tree))


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in CHECKED:
            return None
        spec = importlib.machinery.ModuleSpec(name, self, origin=_file(name))
        spec.has_location = True
        return spec

    def exec_module(self, module: Any) -> None:
        name = module.__spec__.name
        exec(compile(_marked(name), _file(name), "exec"), module.__dict__)


def _file(module: str) -> str:
    return str(ROOT / (module.replace(".", "/") + ".py"))


# --- taking a check out of what is loaded ---------------------------------------------------------


def _functions() -> dict[str, list[types.FunctionType]]:
    """The functions that are loaded, by the module whose text they come from."""
    files = {_file(module): module for module in CHECKED}
    found: dict[str, list[types.FunctionType]] = collections.defaultdict(list)
    for thing in gc.get_objects():
        if isinstance(thing, types.FunctionType) and thing.__code__.co_filename in files:
            found[files[thing.__code__.co_filename]].append(thing)
    return found


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _key(code: types.CodeType) -> tuple[str, int]:
    return (code.co_qualname, code.co_firstlineno)  # type: ignore[attr-defined,unused-ignore]


def take_out(functions: list[types.FunctionType], module: str, number: int) -> None:
    """Give the functions of a module the code that they have without one check."""
    codes = {_key(code): code for code in _codes(compile(mutated(module, number), _file(module), "exec"))}
    for function in functions:
        if _key(function.__code__) in codes:
            function.__code__ = codes[_key(function.__code__)]


# --- as a plugin ------------------------------------------------------------------------------


class _Sibling:
    """Stands for a next test of the same file, so that what the file shares is kept."""

    def __init__(self, item: Any) -> None:
        self._chain = item.listchain()[:-1]

    def listchain(self) -> list[Any]:
        return self._chain


class _Removal:
    """Runs each test again without each of the checks that it came to."""

    def __init__(self, report: Path) -> None:
        wanted = os.environ.get("MUTANTS_OF", "").split(",")
        self._report = report
        self._all = {
            (m.module, m.number): m for name in CHECKED for m in mutants(name) if wanted == [""] or name in wanted
        }  # fmt: skip
        self._alive = dict(self._all)
        self._killed: dict[str, str] = {}
        self._passed_by: dict[tuple[str, int], list[str]] = collections.defaultdict(list)
        self._unusable: list[str] = []
        self._failed: list[str] = []
        self._stopped: list[str] = []
        self._children = 0
        self._functions: dict[str, list[types.FunctionType]] = {}

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        # A database that is shared is not for children. Drawn cases come last: what is left then is little.
        kept = [item for item in items if "postgres" not in item.nodeid]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = sorted(kept, key=lambda item: getattr(item.obj, "is_hypothesis_test", False))

    def pytest_runtestloop(self) -> None:
        self._functions = _functions()
        gc.collect()
        gc.freeze()

    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> bool:
        from _pytest.runner import runtestprotocol

        _reached.clear()
        began = time.process_time()
        reports = runtestprotocol(item, log=False, nextitem=_Sibling(item))
        took = time.process_time() - began
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        reached = [self._alive[key] for key in sorted(_reached) if key in self._alive]
        if all(report.outcome == "passed" for report in reports):
            self._try(item, reached, took)
        elif any(report.failed for report in reports):
            self._failed.append(item.nodeid)
        item.session._setupstate.teardown_exact(nextitem)
        self._write()
        return True

    def _try(self, item: Any, reached: list[Mutant], took: float) -> None:
        if not reached:
            return
        seconds = CPU_SECONDS + int(5 * took)
        if self._child(item, reached[0].module, -1, seconds) != "passed":
            self._unusable.append(item.nodeid)
            return
        for mutant in reached:
            how = self._child(item, mutant.module, mutant.number, seconds)
            key = (mutant.module, mutant.number)
            if how == "passed":
                self._passed_by[key].append(item.nodeid)
                continue
            del self._alive[key]
            self._killed[f"{mutant.module}:{mutant.number}"] = item.nodeid
            if how == "stopped":
                self._stopped.append(mutant.name)

    def _child(self, item: Any, module: str, number: int, seconds: int) -> str:
        """``passed``, ``failed``, or ``stopped`` where it came to a limit."""
        self._children += 1
        child = os.fork()
        if child == 0:
            self._run(item, module, number, seconds)
        descriptor = os.pidfd_open(child)
        if not select.select([descriptor], [], [], WALL_SECONDS)[0]:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        os.close(descriptor)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code != 99, f"{module}:{number} could not be made"
        return "passed" if code == 0 else "stopped" if code < 0 else "failed"

    def _run(self, item: Any, module: str, number: int, seconds: int) -> None:
        """In the child: without a check, and within limits, the test again; never returns."""
        from _pytest.runner import runtestprotocol

        code = 99
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            # What was made since the tests began, and is kept: functions inside of others.
            late = _functions()[module]
            take_out([*self._functions[module], *late], module, number)
            used = (
                int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
            )
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            code = 1
            reports = runtestprotocol(item, log=False, nextitem=_Sibling(item))
            code = 0 if all(report.outcome == "passed" for report in reports) else 1
        finally:
            os._exit(code)

    def _write(self) -> None:
        """After each test, so that what was found is there whatever ends the run."""
        alive = [
            {**asdict(mutant), "passed": self._passed_by[key]} for key, mutant in sorted(self._alive.items())
        ]  # fmt: skip
        found = {
            "mutants": len(self._all), "killed": self._killed, "alive": alive, "failed": self._failed,
            "unusable": self._unusable, "stopped": self._stopped, "children": self._children,
        }  # fmt: skip
        self._report.write_text(json.dumps(found, indent=1), encoding="utf-8")


def pytest_configure(config: Any) -> None:
    """Remove checks, where that is asked for."""
    if "MUTANTS" in os.environ:
        # The same cases in a child as before it, and no time spent on making a failing one smaller.
        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        hypothesis.settings.register_profile(
            "mutants", deadline=None, derandomize=True, database=None, max_examples=25, phases=phases
        )
        hypothesis.settings.load_profile("mutants")
        config.pluginmanager.register(_Removal(Path(os.environ["MUTANTS"])))


if "MUTANTS" in os.environ:  # before ``conftest`` imports anything of ours
    sys.meta_path.insert(0, _Finder())
