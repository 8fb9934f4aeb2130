"""Tests of policies: run the cases that lie beside them, and make a case of a real proposal.

Invariants: a case that fails, a rule that no case tries and a loosening that no case notices end with exit
status 4; a case file that cannot be read, or names a rule that is not there, with 3.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrails.errors import PolicyError, Problem, UsageError
from ui import presenters
from ui.cli.group import add
from ui.cli.output import empty, heading, line
from ui.cli.policies.files import located, writing
from ui.cli.policies.groups import policy
from ui.cli.session import Finished, Session
from ui.presenters.policies import test_fields

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.policy import LoadedPolicy

FAILED = 4
_GOOD, _BAD, _MISSING = "good", "bad", "caution"


@add(policy, "test", help="Run the cases beside a policy (cases/NAME/*.yaml); exit status 4 if one fails.")
@click.argument("target", required=False, metavar="[FILE|DIR]", type=click.Path(path_type=Path))
@click.option(
    "--coverage",
    is_flag=True,
    help="Also demand, for each rule, a passing and a failing case, and one that notices each loosening.",
)
@click.option(
    "--cases", "folder", metavar="DIR", type=click.Path(path_type=Path), help="Cases from another folder."
)
def test(session: Session, target: Path | None, coverage: bool, folder: Path | None) -> None:
    """Run the cases of policies."""
    from guardrails.authoring.case_files import cases_folder, read_cases
    from guardrails.authoring.mutation import unnoticed
    from guardrails.authoring.testing import gaps, run_cases
    from guardrails.policy import load_policy

    problems: list[Problem] = []
    tested: list[dict[str, Any]] = []
    for file in policy_files(target):
        try:
            loaded = load_policy(file)
        except PolicyError as error:
            problems.extend(located(file, error.problems))
            continue
        try:
            results = run_cases(loaded, read_cases(loaded, folder or cases_folder(file, loaded.policy.name)))
        except PolicyError as error:
            problems.extend(error.problems)
            continue
        missing = gaps(loaded, results) if coverage else []
        looser = unnoticed(loaded, results) if coverage else []
        tested.append(test_fields(loaded.policy.name, str(file), results, missing, looser))
    untested = [item["policy"] for item in tested if not item["cases"]]
    ok = not problems and not any(i["failures"] or i["gaps"] or i["unnoticed"] for i in tested)
    data = {
        "ok": ok and not (untested and coverage),
        "policies": tested,
        "errors": [presenters.problem_fields(problem) for problem in problems],
    }

    def draw(console: Console) -> None:
        for problem in problems:
            console.print(line(presenters.Mark("✕", "error", _BAD), str(problem)), soft_wrap=True)
        for item in tested:
            _draw(console, item, coverage=coverage)

    session.output.result("policy test", data, draw)
    if problems:
        raise Finished(PolicyError.exit_status)
    if not data["ok"]:
        raise Finished(FAILED)


def policy_files(target: Path | None) -> list[Path]:
    """The policies that a file or a folder stands for; without either, ``policies/`` or this folder."""
    if target is None:
        target = Path("policies") if Path("policies").is_dir() else Path()
    if target.is_file():
        return [target]
    if not target.is_dir():
        raise UsageError(f"there is no file or folder {target}", hint="name a policy file or its folder")
    found = sorted(path for path in target.iterdir() if path.suffix in {".yaml", ".yml"} and path.is_file())
    if not found:
        # Nothing tested is not a success: a wrong folder in a script must not look like one.
        raise UsageError(
            f"there is no policy file in {target}", hint="interlock policy test policies/default.yaml"
        )
    return found


def _draw(console: Console, item: dict[str, Any], *, coverage: bool) -> None:
    fine = not (item["failures"] or item["gaps"] or item["unnoticed"]) and item["cases"]
    mark = presenters.Mark("✓" if fine else "✕", item["policy"], _GOOD if fine else _BAD)
    covered = ", every rule tried both ways, every loosening noticed" if fine and coverage else ""
    console.print(line(mark, f"{item['passed']} of {item['cases']} cases as expected{covered}"))
    if not item["cases"]:
        empty(
            console,
            "  It has no cases.",
            f"write {Path(item['file']).parent}/cases/{item['policy']}/first.yaml",
        )
    for failure in item["failures"]:
        console.print(
            line(" ", presenters.Mark("✕", failure["place"], _BAD), failure["case"]), soft_wrap=True
        )
        for found in failure["mismatches"]:
            what = found["rule"] or "verdict"
            said = f": {presenters.one_line(found['message'], 200)}" if found["rule"] else ""
            console.print(
                line(f"      {what}: expected {found['expected']}, got {found['got']}{said}"), soft_wrap=True
            )
    for gap in item["gaps"]:
        console.print(line(" ", presenters.Mark("▲", f"{gap['rule']} lacks {gap['lacks']}", _MISSING)))
    for mutant in item["unnoticed"]:
        told = f"{mutant['rule']}: no case notices {mutant['change']}"
        console.print(line(" ", presenters.Mark("▲", told, _MISSING)))


@add(policy, "record", help="Make a case of a real proposal: its evidence, and what a policy says of it.")
@click.argument("id_", metavar="ID")
@click.option(
    "--policy",
    "policy_file",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The policy that the case is for.",
)
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="Where to write it.")
def record(session: Session, id_: str, policy_file: Path, out: Path | None) -> None:
    """Record a case."""
    from guardrails.authoring.case_files import cases_folder
    from guardrails.authoring.recording import record_case
    from guardrails.ledger import judging
    from guardrails.policy import load_policy

    loaded = load_policy(policy_file)
    folder = out or cases_folder(policy_file, loaded.policy.name)
    with session.view() as view:
        row = view.proposal(id_.upper())
        store = session.workspace.store
        measurements = judging.read_measurements(store, row)
        intact = row.proposal is not None and judging.is_intact(store, row.proposal.bundle)
        case = judging.case_of(view.snapshot.tables, row, measurements, session.now(), intact=intact)
    recording = record_case(case)
    text = _case_text(loaded, row.id, recording)
    paths = [folder / f"{row.id}.json", folder / f"{row.id}.yaml"]
    present = next((path for path in paths if path.exists()), None)
    if present is not None:
        raise UsageError(f"{present} is there already", hint="delete it, or write elsewhere with --out DIR")
    with writing(folder):
        paths[0].write_bytes(recording + b"\n")
        paths[1].write_text(text, encoding="utf-8")

    def draw(console: Console) -> None:
        console.print(heading(f"{row.id} as a case of {loaded.policy.name}"))
        for path in paths:
            console.print(line(presenters.Mark("✓", str(path), _GOOD)))
        console.print(line("It expects what the policy says now: read it, then keep or change it."))

    session.output.result("policy record", {"id": row.id, "files": [str(path) for path in paths]}, draw)


def _case_text(loaded: LoadedPolicy, name: str, recording: bytes) -> str:
    """A case that expects what the policy says today."""
    from guardrails.authoring.recording import parse_recording
    from guardrails.authoring.testing import outcomes, recorded_verdict, word_of
    from guardrails.records import Outcome

    verdict = recorded_verdict(loaded, parse_recording(recording))
    calm = (Outcome.PASS, Outcome.SKIPPED)
    found = {rule: word_of(f) for rule, f in outcomes(verdict).items() if f.outcome not in calm}
    lines = [
        "apiVersion: interlock/v1",
        "kind: PolicyCases",
        "cases:",
        f"  - name: {name} as it was measured",
        f"    recorded: {name}.json",
        f"    verdict: {verdict.kind.value}",
    ]
    if found:
        lines += ["    findings:", *(f"      {rule}: {word}" for rule, word in found.items())]
    return "\n".join(lines) + "\n"
