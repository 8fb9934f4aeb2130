"""What the log says: a pure function from signed records to the state of the workspace.

Invariants:
- ``project`` is the only writer of state, and state is a function of the records alone: replaying the
  log from its first record rebuilds every row. The gate runs it inside the transaction that appends a
  record; the verifier runs the very same function; so nothing can be in force that a verifier refuses.
- A record that the rules do not allow raises ``DeniedError`` and leaves no trace: the transaction that
  tried to append it is rolled back.
- A champion moves only by ``adopt`` (set-up, signed by a root), ``promotion`` (a permitting verdict and a
  full quorum bound to exactly this bundle, champion, evidence, verdict, policies and roster) and
  ``rollback`` (a full quorum, to an earlier champion that is not quarantined).

``rows`` says what is known of each thing; ``people`` who may sign; ``standing`` what the policies in force
ask for and how far the votes go; ``transitions`` what each record does.
"""

from guardrails.ledger.transitions import project

__all__ = ["project"]
