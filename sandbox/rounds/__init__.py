"""One round: propose, collect, merge, measure, judge. Each step an isolated job; the gate writes the log.

``proposing`` and ``measuring`` are the two halves; both stand on ``jobs``, which runs one isolated job to its end, and
on ``bench``, what they work with. ``training`` makes a bundle; ``provenance`` says what it was made with.

Invariants:
- The job that proposes never measures; what measures is another process with another set of mounts.
"""

from sandbox.rounds.bench import Bench, Report, desk_of, is_being_measured, job_folder, sweep
from sandbox.rounds.measuring import measure
from sandbox.rounds.proposing import propose, submit

__all__ = [
    "Bench",
    "Report",
    "desk_of",
    "is_being_measured",
    "job_folder",
    "measure",
    "propose",
    "submit",
    "sweep",
]
