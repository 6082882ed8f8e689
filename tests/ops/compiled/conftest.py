"""These tests run in a process of their own, started by `tests/ops/test_triton.py`: there triton compiles."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "0" else ["test_*.py"]
