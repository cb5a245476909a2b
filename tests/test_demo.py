"""The demo: the whole path, as `make demo` runs it."""

import json
from pathlib import Path

import pytest

from vbx.commands.demo import demo


@pytest.mark.slow
def test_the_demo_learns_what_is_audible_and_writes_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo(tmp_path, json=True)
    found = json.loads(capsys.readouterr().out)
    assert [f["extracted"] for f in found["features"]] == [240, 240]
    assert (found["runs"], found["diverged"]) == (12, 0)
    best = found["ranking"][0]
    assert best["test.emotion.ccc"] > 0.5 and best["test.country.uar"] > 0.7 and best["test.age.mae"] < 4
    page = (tmp_path / "report.html").read_text()
    assert "https://" not in page.split("<script")[0] and page.count('vegaEmbed("#figure-') == 5
    for title in ("Scores", "Learning curves", "Confusions", "Predicted against true", "Map of the shared layer"):
        assert f"<h2>{title}</h2>" in page
    demo(tmp_path)
    said = capsys.readouterr()
    assert "vbx extract CORPUS" in said.out and "0 multitask heads" in said.err
