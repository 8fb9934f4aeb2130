"""``python -m ui.cli`` is ``interlock``."""

from ui.cli.main import main

main()
