"""The fuzzer's inputs for the tests beside it. Tests are no package, so that its modules are found by their path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings, shard sets and runs as ``material.build`` makes them; a test puts back what it changes."""
    import material

    root = tmp_path_factory.mktemp("inputs") / "root"
    root.mkdir()
    material.build(root)
    return root
