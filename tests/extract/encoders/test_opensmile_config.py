"""The cut configuration of openSMILE: which components stay, on a made-up one and on the package's."""

from pathlib import Path

import pytest

from vbx.extract.encoders._smile_config import cut_config, flatten_config

TEXT = r"""
[componentInstances:cComponentManager]
instance[memory].type=cDataMemory
\{\cm[source{?}:where from]}
instance[frame].type=cFramer
instance[pitch].type = cPitch
  instance[jitter].type=cPitchJitter
instance[idle].type=cEnergy
instance[more].type=cDeltaRegression

[frame:cFramer]
reader.dmLevel=wave
writer.dmLevel=frames
[pitch:cPitch]
reader.dmLevel = frames
writer.dmLevel = f0
[jitter:cPitchJitter]
reader.dmLevel = wave
F0reader.dmLevel = f0
writer.dmLevel = jitter
\{more/idle.inc}
"""
IDLE = """[idle:cEnergy]
reader.dmLevel = frames;f0
writer.dmLevel = energy
\\{\\cm[mode{buffer.inc}:buffer mode]}
[more:cDeltaRegression]
reader.dmLevel = energy
writer.dmLevel = energy_de
"""


@pytest.fixture
def lines(tmp_path: Path) -> list[str]:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "idle.inc").write_text(IDLE)
    (tmp_path / "more" / "buffer.inc").write_text("writer.levelconf.nT=5\n")
    (tmp_path / "set.conf").write_text(TEXT)
    return flatten_config(tmp_path / "set.conf")


def instances(text: str) -> list[str]:
    return [line.split("[")[1].split("]")[0] for line in text.splitlines() if line.strip().startswith("instance[")]


def test_includes_are_put_in_place(lines: list[str], tmp_path: Path) -> None:
    assert "writer.dmLevel = energy_de" in lines
    assert r"\{\cm[source{?}:where from]}" in lines
    assert rf"\{{\cm[mode{{{(tmp_path / 'more' / 'buffer.inc').resolve()}}}:buffer mode]}}" in lines


@pytest.mark.parametrize(
    ("levels", "kept"),
    [
        (["jitter"], ["memory", "frame", "pitch", "jitter"]),
        (["f0"], ["memory", "frame", "pitch"]),
        (["energy"], ["memory", "frame", "pitch", "idle"]),
        (["jitter", "energy_de"], ["memory", "frame", "pitch", "jitter", "idle", "more"]),
        (["wave"], ["memory"]),
    ],
)
def test_what_a_level_is_made_from_stays(lines: list[str], levels: list[str], kept: list[str]) -> None:
    assert instances(cut_config(lines, levels)) == kept


def test_how_much_is_cut_from_egemaps() -> None:
    opensmile = pytest.importorskip("opensmile")
    path = Path(opensmile.Smile("eGeMAPSv02", "func").default_config_root) / "egemaps" / "v02" / "eGeMAPSv02.conf"
    lines = flatten_config(path)
    counts = [len(instances("\n".join(lines))), *(len(instances(cut_config(lines, [x]))) for x in ("func", "lld"))]
    assert counts == [72, 53, 31]
