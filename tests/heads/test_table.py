"""A ranking as text."""

import io
import json

import numpy as np
import pandas as pd
import pytest

from vbx.errors import UnknownName
from vbx.heads.table import format_ranking, word_ranking

RANKING = pd.DataFrame(
    {
        "rank": [1, 2],
        "feature": ["a|b", "egemaps"],
        "trunk.hidden": pd.Series(["[8]", None], dtype=object),
        "seeds": [3, 1],
        "diverged": [0, 2],
        "dev.score": [0.123456789012345, np.nan],
        "dev.score.sd": [0.01, np.nan],
        "dev.score.low": [0.1, np.nan],
        "dev.score.high": [0.2, np.nan],
        "dev.score.published": [0.5, np.nan],
        "dev.score.minus_published": [0.123456789012345 - 0.5, np.nan],
        "to_best": [0.0, np.nan],
        "p_seeds": [np.nan, 0.0001],
        "p": [np.nan, 0.0004],
        "within_noise": [True, False],
        "ranked_by": ["dev.score"] * 2,
        "selected_on_test": False,
    }
)


def test_json_has_every_digit_and_null_for_what_is_no_number():
    first, second = json.loads(format_ranking(RANKING, "json"))
    assert first["dev.score"] == 0.123456789012345 and first["within_noise"] is True and first["rank"] == 1
    assert second["dev.score"] is None and second["trunk.hidden"] is None and second["within_noise"] is False
    assert list(first) == list(RANKING.columns)


def test_csv_can_be_read_back():
    again = pd.read_csv(io.StringIO(format_ranking(RANKING, "csv")))
    pd.testing.assert_frame_equal(again, RANKING, check_dtype=False, check_exact=True)


def test_markdown_is_a_table():
    lines = format_ranking(RANKING, "md").splitlines()
    assert lines[0] == (
        "| rank | feature | trunk.hidden | seeds | diverged | within noise | p | dev.score | dev.score published |"
    )
    assert lines[1] == "|" + " --- |" * 9
    assert lines[2] == r"| 1 | a\|b | [8] | 3 | 0 | best | – | 0.1235 ± 0.0100 [0.1000, 0.2000] | 0.5 (-0.3765) |"
    assert lines[3] == "| 2 | egemaps | – | 1 | 2 | no | <0.001 | – | – |"


def test_words_say_what_is_known():
    known = RANKING.assign(**{"diverged": 0, "dev.score.sd": np.nan}).head(1)
    words = word_ranking(known)
    assert "diverged" not in words and words["dev.score"].tolist() == ["0.1235 [0.1000, 0.2000]"]
    assert word_ranking(known.assign(**{"dev.score.low": np.nan}))["dev.score"].tolist() == ["0.1235"]


def test_words_say_what_was_tested_and_selected():
    words = word_ranking(RANKING.assign(p=[np.nan, np.nan], within_noise=True))
    assert words["within noise"].tolist() == ["best", "untested"] and words["p"].tolist() == ["–", "–"]
    assert word_ranking(RANKING.assign(p=[np.nan, 0.3], within_noise=True))["p"].tolist() == ["–", "0.300"]
    single = RANKING.assign(p_seeds=np.nan)
    assert word_ranking(single)["within noise"].tolist() == ["best", "no (one seed)"]
    on_test = RANKING.rename(columns=lambda name: name.replace("dev.", "test."))
    words = word_ranking(on_test.assign(ranked_by="test.score", selected_on_test=True))
    assert "test.score (selected on test)" in words and "test.score" not in words


def test_the_best_seed_has_a_column_of_its_own():
    words = word_ranking(RANKING.assign(**{"dev.score.best_seed": [0.2, np.nan]}))
    assert words["dev.score best seed"].tolist() == ["0.2000", "–"]
    assert words["dev.score"].tolist()[0].startswith("0.1235 ±")


def test_an_unknown_format_is_told():
    with pytest.raises(UnknownName, match="did you mean 'json'"):
        format_ranking(RANKING, "jsn")
