"""Where a number was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokscale import _provenance


def test_a_copy_without_a_checkout_says_the_commit_it_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_provenance, "__file__", str(tmp_path / "tokscale" / "_provenance.py"))
    monkeypatch.delenv("TOKSCALE_COMMIT", raising=False)
    _provenance.commit.cache_clear()
    try:
        assert _provenance.commit() is None
        _provenance.commit.cache_clear()
        monkeypatch.setenv("TOKSCALE_COMMIT", "0123456789ab")
        assert _provenance.commit() == "0123456789ab"
    finally:
        _provenance.commit.cache_clear()
