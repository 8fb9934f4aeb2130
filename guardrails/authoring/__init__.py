"""What the authors of policies work with: cases, coverage, backtests, explanations, documentation.

Invariants:
- Nothing here judges: every outcome comes from ``guardrails.engine``, so a test, a replay and the gate cannot
  disagree about what a policy says.
- Nothing here changes a workspace or puts anything in force.

``case_schema`` and ``case_files`` read cases, ``testing`` runs them, ``mutation`` asks whether they would
notice a looser policy, ``recording`` makes one of a real proposal, ``backtest`` replays the past, ``remedy``
says what would have to change, ``reference`` writes the documentation, ``difference`` compares two versions.
"""
