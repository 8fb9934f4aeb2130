"""The decision log on the command line, by subject.

``show`` records and reports · ``verify`` the log, a bundle or a proof · ``proof`` checkpoints and proofs ·
``export`` bundles, CSV and tables · ``witness`` a process of its own · ``history`` what was in force when ·
``erase`` names and free text.

Invariants: all but ``rebuild``, ``erase`` and what asks a witness work on a log opened for reading, without any
key, on a core installation; ``verify`` ends with 7 unless every check that was made held, and says what was
not checked.
"""

from ui.cli.log import erase, export, history, proof, show, verify, witness
from ui.cli.log.group import log
from ui.cli.log.verify import verified

__all__ = ["erase", "export", "history", "log", "proof", "show", "verified", "verify", "witness"]
