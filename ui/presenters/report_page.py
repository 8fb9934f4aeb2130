"""A report as one page of Markdown.

Invariants: whatever people or models wrote is escaped: it can make no heading, link, image, table cell, HTML or
code block, and stays on its line; the page says how each statement in it is verified.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ui.presenters.fields import Json
from ui.presenters.texts import counted, duration, interval, moment, number, one_line, positive_zero, size

_SPECIAL = re.compile(
    r"""
    [`~$|]                                  # code, strikethrough, mathematics, the end of a cell: anywhere
    | \\(?=[!-/:-@\[-`{-~]|$)               # itself an escape, before punctuation or what we write after it
    | \*(?!\s) | (?<=\S)\*                 # emphasis, unless it stands alone
    | (?<![^\W_])_ | _(?![^\W_])            # emphasis, unless within a word
    | \](?=[(\[:]|$)                        # the middle of a link; without one a bracket is a bracket
    | <(?=[A-Za-z/!?]|$)                    # HTML, or a link in angle brackets
    | &(?=[#A-Za-z]|$)                      # a character by its name
    | \#(?=\#*$)                            # the end of a heading
    | (?<=[A-Za-z]):(?=//)                  # what some make a link of: http://x
    | (?<=[Ww]{3})\.                        # … and www.x
    """,
    re.VERBOSE,
)
"""What Markdown, or GitHub's, would interpret within a line. Nothing that we escape stands at the start of one."""


def escape(text: object, limit: int = 0) -> str:
    """Any text as plain text in Markdown, within a line, a heading or a cell; as readable as it was, where it can be."""
    return _SPECIAL.sub(r"\\\g<0>", one_line(str(text), limit))


def code(text: object) -> str:
    """A digest, number or name that we made ourselves, as code; anything that could end the code is dropped."""
    clean = re.sub(r"[^A-Za-z0-9 _.:/+=,@-]", "", one_line(str(text)))
    return f"`{clean}`" if clean.strip() else "–"


def page(data: Json) -> str:
    """The whole page."""
    proposal = data["proposal"]
    parts = [
        f"# Proposal {escape(proposal['id'])}: {escape(proposal['model'])}, {escape(proposal['state'].replace('_', ' '))}",
        (
            f"Log {code(data['log'])}, {data['entries']} records when this was written. "
            "Numbers in brackets are records of this log."
        ),
        *_proposed(data), *_measured(data), *_decided(data), *_after(data), *_verify(data),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _proposed(data: Json) -> list[str]:
    proposal = data["proposal"]
    if "intent" not in proposal:
        failure = proposal.get("failure", {})
        return [
            "## What was proposed",
            f"Nothing came of it: {escape(failure.get('reason', proposal['note']))}",
        ]
    compute = proposal["compute"]
    rows = [
        ("Intent", escape(proposal["intent"], 2000)),
        ("By", f"{escape(proposal['proposer'])}, {escape(proposal['technique'])}"),
        (
            "Trained",
            "elsewhere, and handed in"
            if proposal["submitted"]
            else f"here, isolation {escape(proposal['isolation'])}",
        ),
        ("Model proposed", code(proposal["bundle_digest"])),
        ("From champion", code(proposal["champion_digest"])),
        ("Training data", code(proposal["data_digest"])),
        *([("Answers by", escape(", ".join(proposal["authors"]), 2000))] if proposal["authors"] else []),
        ("Objective", code(proposal["objective_digest"])),
        ("Recipe", escape(", ".join(f"{k} = {v}" for k, v in sorted(proposal["recipe"].items()))) or "–"),
        ("Seed", str(proposal["seed"])),
        (
            "Used",
            f"{escape(duration(compute['cpu_s']))} of CPU, {escape(size(compute['memory_bytes']))} of memory",
        ),
        ("Proposed at", f"{escape(moment(proposal['created_at']))} {_ref(data, 'proposal')}"),
    ]
    return ["## What was proposed", _table(("What", "Value"), rows)]


def _measured(data: Json) -> list[str]:
    verdict, evidence = data["verdict"], data["proposal"].get("evidence")
    if evidence is None:
        return ["## What was measured", "Nothing has been measured."]
    counts = ", ".join(f"{escape(name)}: {count}" for name, count in sorted(evidence["counts"].items()))
    parts = [
        "## What was measured",
        (
            f"Evaluator {code(evidence['evaluator'])}, isolation {escape(evidence['isolation'])}, numbers in "
            f"{code(evidence['measurements'])} {_ref(data, 'evidence')}. Items: {counts or '–'}."
        ),
    ]
    if verdict["verdict"] is None:
        return [*parts, "It has not been judged."]
    policies = ", ".join(f"{escape(name)} {code(digest)}" for name, digest in verdict["policies"].items())
    parts.append(
        f"**Verdict: {escape(verdict['verdict'])}** {_ref(data, 'verdict')}, by {policies or 'no policy'}; attempt "
        f"{verdict['attempt']}, confidence {100 * verdict['confidence']:.4g} %, engine {code(verdict['engine'])}. "
        f"{escape(verdict['summary'])}"
    )
    rows = [
        (
            escape(f["rule"]), escape(_outcome(f)),
            escape(f["severity"]), escape(number(f["observed"])), escape(interval(f["lower"], f["upper"])) or "–",
            escape(f["condition"]), str(f["n"]) if f["n"] is not None else "–", escape(f["source"]),
            escape(positive_zero(f["message"]), 300),
        )
        for f in data["findings"] if f["outcome"] != "skipped"
    ]  # fmt: skip
    skipped = [escape(f["rule"]) for f in data["findings"] if f["outcome"] == "skipped"]
    idle = ""
    if skipped:
        names = ", ".join(dict.fromkeys(skipped))
        idle = f"{counted(len(skipped), 'rule')} of the policy did not apply to this model: {names}."
    head = ("Rule", "Outcome", "Severity", "Observed", "Interval", "Limit", "n", "Policy line", "Note")
    return [*parts, _table(head, rows), idle]


def _outcome(finding: Json) -> str:
    waived = ", waived" if finding["waived"] else ""
    return f"{finding['outcome']}{waived}{', not binding' if finding['shadow'] else ''}"


def _decided(data: Json) -> list[str]:
    if not data["decisions"]:
        return ["## Who decided", "Nobody has signed anything about it."]
    rows = [
        (
            f"\\[{d['seq']}\\]", escape(moment(d["time"])), escape(d["action"]),
            f"{escape(d['name'])} ({code(d['person'])})",
            escape(d["role"]), escape(d["surface"]), escape(", ".join(d["viewed"])) or "–", code(d["key"]),
            escape(d["reason"], 2000),
        )
        for d in data["decisions"]
    ]  # fmt: skip
    head = ("Record", "Signed at", "Action", "Person", "Role", "Surface", "Had seen", "Key", "Reason")
    return ["## Who decided", _table(head, rows)]


def _after(data: Json) -> list[str]:
    rows = [
        (
            f"\\[{r['seq']}\\]", escape(moment(r["time"])), escape(r["record"]), escape(r["by"]),
            escape(r["summary"], 400), code(r["leaf"]),
        )
        for r in data["records"]
    ]  # fmt: skip
    return [
        "## Every record about it, in order",
        _table(("Record", "Time", "Kind", "By", "What", "Leaf"), rows),
        f"Now: {escape(data['proposal']['state'].replace('_', ' '))}. {escape(data['proposal']['note'], 400)}",
    ]


def _verify(data: Json) -> list[str]:
    first = data["records"][0]["seq"] if data["records"] else 0
    proof = f"{first}.tlog-proof --record"
    commands = (
        "interlock log verify --root-key root.pub",
        f"interlock log show {first}",
        f"interlock log proof {first} --to {proof}-to {first}.json",
        f"interlock log verify --proof {proof} {first}.json --log-key KEY",
    )
    note = "\n".join(f"    {line}" for line in data["checkpoint"].rstrip("\n").split("\n"))
    return [
        "## How to verify this page",
        "Each record is in the log, signed, and was allowed by the rules (with the root's key that you were handed):",
        "\n".join(f"    {line}" for line in commands),
        "The first checkpoint that covers all of them:",
        note if data["checkpoint"] else "",
    ]


def _ref(data: Json, kind: str) -> str:
    found = [record["seq"] for record in data["records"] if record["record"] == kind]
    return f"\\[{found[-1]}\\]" if found else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)
