"""Fixtures for every room: where the real recordings lie, if they do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real recordings (icentia11k/, mitdb/, cinc2017/): $ECGRAY_DATA or ~/.cache/ecgray-data."""
    root = Path(os.environ.get("ECGRAY_DATA", "~/.cache/ecgray-data")).expanduser()
    if not (root / "mitdb").is_dir():
        pytest.skip("real recordings are not on this machine (set ECGRAY_DATA)")
    return root
