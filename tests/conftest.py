"""Fixtures shared by all tests."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vbx.cli import main

# Tests look into what they run, so they run it in their own process; those of the crew start processes themselves.
os.environ.setdefault("VBX_WORKERS", "0")


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of real corpora, from VBX_TEST_CORPORA."""
    folder = os.environ.get("VBX_TEST_CORPORA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("VBX_TEST_CORPORA does not name a folder of real corpora")
    return Path(folder)


@pytest.fixture
def command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run a command: exit code, stdout, stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vbx", *words])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
