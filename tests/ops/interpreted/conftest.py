"""These tests run in a process of their own, started by `tests/ops/test_triton.py`: triton reads `TRITON_INTERPRET`
once, when it is imported."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
