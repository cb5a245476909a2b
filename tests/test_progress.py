"""Progress: plain lines off a terminal, an ETA in them, nothing from the quiet one."""

import pytest

from vbx.devices import pick_device
from vbx.errors import DeviceError
from vbx.progress import Quiet, Shown


def test_off_a_terminal_lines_tell_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("vbx.progress.time.monotonic", lambda: clock[0])
    with Shown() as progress:
        progress.start("egemaps", 10.0, "audio h")
        for _ in range(4):
            clock[0] += 6.0
            progress.advance(1.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "egemaps: 2 of 10 audio h, 600 x real time, about 48 s left",
        "egemaps: 4 of 10 audio h, 600 x real time, about 36 s left",
    ]


def test_pieces_side_by_side_are_told_apart(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("vbx.progress.time.monotonic", lambda: clock[0])
    with Shown() as progress:
        progress.start("egemaps", 4.0, "clips")
        progress.start("compare", 8.0, "clips")
        clock[0] = 20.0
        progress.advance(2.0, what="egemaps")
        progress.advance(2.0, what="compare")
        progress.finish("compare")
        progress.advance(1.0, what="compare")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["egemaps: 2 of 4 clips, about 20 s left", "compare: 2 of 8 clips, about 60 s left"]


def test_on_a_terminal_a_bar_comes_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with Shown() as progress:
        progress.start("egemaps", 10.0, "audio h")
        progress.advance(3.0, note="fast")
        progress.start("compare", 10.0, "audio h")


def test_the_quiet_one_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Quiet()
    progress.start("x", 1.0, "y")
    progress.advance()
    progress.finish()
    assert capsys.readouterr() == ("", "")


def test_a_device_that_is_not_there_is_never_another() -> None:
    import torch

    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "gpu", "cuda:x"):
        with pytest.raises(DeviceError, match=name):
            pick_device(name)
