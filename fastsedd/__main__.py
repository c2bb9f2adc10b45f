"""`python -m fastsedd`."""

from __future__ import annotations

from fastsedd.cli import main

main()
