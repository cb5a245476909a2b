"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

# Tests look into what they run, so they run it in their own process; those of the crew start processes themselves.
os.environ.setdefault("VBX_WORKERS", "0")


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of real corpora, from VBX_TEST_CORPORA."""
    folder = os.environ.get("VBX_TEST_CORPORA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("VBX_TEST_CORPORA does not name a folder of real corpora")
    return Path(folder)
