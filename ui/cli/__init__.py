"""The command line. ``main`` is its entry; each other module holds the commands of one subject.

Read in this order: ``main`` (entry, and the one place where errors become exit statuses), ``group`` (Click
with global options everywhere), ``session`` (options, workspace, who signs), ``output`` (terminal and JSON);
then the commands by subject. Nothing heavy is imported before a command needs it.

Invariant: refuses to start where another package called ``guardrails`` has taken the place of our own, before
anything of it is imported.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

_OUR_FIRST_WORDS = b'"""The trusted core:'


def _refuse_foreign_guardrails() -> None:
    spec = find_spec("guardrails")
    origin = spec.origin if spec is not None else None
    try:
        own = origin is not None and Path(origin).read_bytes().startswith(_OUR_FIRST_WORDS)
    except OSError:
        own = False
    if not own:
        sys.stderr.write(
            f"error: another package called guardrails is installed ({origin or 'without files'}).\n"
            "  hint: Interlock and guardrails-ai cannot share an environment; make one for each\n"
        )
        raise SystemExit(2)


_refuse_foreign_guardrails()
