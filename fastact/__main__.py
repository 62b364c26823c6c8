"""``python -m fastact``: the same as the command ``fastact``."""

from fastact.cli import main

raise SystemExit(main())
