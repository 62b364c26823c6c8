"""``python -m fastact``: the same as the command ``fastact``."""

from fastact.tools.cli import main

raise SystemExit(main())
