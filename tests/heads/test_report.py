"""The page: complete in itself, its numbers those of the ranking, its text harmless."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from vbx.cache.vectors import Vectors
from vbx.heads.board import append_results, read_results
from vbx.heads.ranking import rank_results
from vbx.heads.report import list_notes, make_plots, write_report
from vbx.heads.table import word_ranking

EVIL = "</script><script>alert(1)</script>&amp;"


class Page(HTMLParser):
    """What a browser would see: the cells of the table, list items, and every address it would fetch."""

    fetching = {"src", "srcset", "href", "data", "poster", "action", "formaction", "background"}

    def __init__(self, text):
        super().__init__()
        self.rows, self.items, self.addresses, self.scripts, self.tags, self.text = [], [], [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in self.fetching]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "li":
            self.items.append("")
        elif tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        while tag in self.tags and self.tags.pop() != tag:
            pass

    def handle_data(self, data):
        if "script" in self.tags:
            self.scripts[-1] += data
        elif "table" in self.tags and ("td" in self.tags or "th" in self.tags):
            self.rows[-1][-1] += data
        elif "li" in self.tags:
            self.items[-1] += data
        else:
            self.text += data


@pytest.fixture
def results(tmp_path, vectors, make_run, make_result):
    """Three settings of a feature with an evil name, one of them diverged once."""
    evil = Vectors.from_arrays(vectors.x * 2, vectors.labels, feature=EVIL, corpus="c6")
    rng = np.random.default_rng(0)
    for data in (vectors, evil):
        done = []
        for lr in (0.1, 0.2):
            for seed in (1, 2, 3):
                status = "diverged" if (lr, seed) == (0.2, 3) else "ok"
                value = 0.5 + lr + seed / 100 if status == "ok" else np.nan
                scores = {
                    (split, *metric): (value - shift, value - shift + 0.05 * rng.standard_normal(200))
                    for split, shift in (("dev", 0), ("test", 0.1))
                    for metric in (("score", "hmean"), ("age", "mae"))
                }
                done.append(make_result(make_run(seed, lr=lr), scores, data, status=status))
        append_results(tmp_path / "out", done, data)
    return read_results(tmp_path / "out")


@pytest.fixture
def page(tmp_path, results):
    ranking = rank_results(results, published={"toy": {"score": 0.4}})
    write_report(ranking, results, tmp_path / "page.html", f"Toys {EVIL}", ["split made by vbx <now>"])
    return Page((tmp_path / "page.html").read_text(encoding="utf-8")), ranking


def test_a_browser_fetches_nothing(tmp_path, page):
    assert page[0].addresses == []
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    style = "".join(re.findall(r"<style>.*?</style>", text, re.S))
    assert style and "url(" not in style and "@import" not in style
    assert not {"iframe", "object", "embed", "base", "form"} & set(re.findall(r"<([a-z]+)", text.split("<script>")[0]))


def test_the_table_is_the_ranking(page):
    parsed, ranking = page
    words = word_ranking(ranking)
    assert parsed.rows[0] == list(words.columns)
    assert parsed.rows[1:] == words.to_numpy().tolist()
    cell = parsed.rows[1][parsed.rows[0].index("dev.score")]
    mean, sd, low, high = (float(number) for number in re.findall(r"-?\d+\.\d+", cell))
    row = ranking.iloc[0]
    expected = row[["dev.score", "dev.score.sd", "dev.score.low", "dev.score.high"]].astype(float)
    np.testing.assert_allclose([mean, sd, low, high], expected, atol=5e-5)


def test_text_is_text(tmp_path, page):
    parsed, _ = page
    assert f"Toys {EVIL}" in parsed.text and "split made by vbx <now>" in parsed.items
    assert any(EVIL in row for row in parsed.rows)
    assert len(parsed.scripts) == 2  # none was smuggled in
    spec = json.loads(parsed.scripts[1].removeprefix('vegaEmbed("#plots", ').rpartition(', {"actions"')[0])
    assert EVIL in json.dumps(spec)


def test_the_page_says_what_to_note(page, results):
    parsed, _ = page
    assert parsed.items[0] == "split made by vbx <now>"
    assert "Runs that diverged: 2; no mean has them in it." in parsed.items
    assert "Utterances of corpus c6 without a vector of toy: 2; no score has them in it." in parsed.items
    assert "12 runs on c6" in parsed.text and "6 of dev and 6 of test" in parsed.text and "on cpu with" in parsed.text
    assert "Ranked by dev.score" in parsed.text


def test_notes_of_runs_and_of_a_missing_dev_are_told(results):
    test_only = results[results["split"] == "test"].assign(notes='["there is no dev split"]')
    one_seed = test_only[test_only["seed"] == 1]
    notes = list_notes(rank_results(one_seed), one_seed)
    assert notes[0] == "there is no dev split"
    assert any("ranked on test" in note for note in notes) and any("a single seed: 4" in note for note in notes)


def test_the_plots_hold_means_intervals_and_seeds(results):
    ranking = rank_results(results)
    spec = make_plots(ranking, results).to_dict()
    assert len(spec["concat"]) == 4  # score and age.mae, on dev and on test
    data, panel = spec["datasets"], spec["concat"][0]
    rule, seeds, tick = (data[layer["data"]["name"]] for layer in panel["layer"])
    assert rule == tick
    expected = ranking[["dev.score", "dev.score.low", "dev.score.high"]].to_numpy()
    np.testing.assert_allclose([[row["mean"], row["low"], row["high"]] for row in rule], expected)
    values = results[(results["task"] == "score") & (results["split"] == "dev")]["value"].dropna()
    assert sorted(row["value"] for row in seeds) == sorted(values) and len(values) == 10
    names = [row["setting"] for row in rule]
    assert names[-1].endswith("fit.lr 0.1") and {row["setting"] for row in seeds} == set(names)
    titles = [panel["layer"][2]["encoding"]["x"]["title"] for panel in spec["concat"]]
    assert titles == ["score, dev", "score, test", "age.mae, dev (less is better)", "age.mae, test (less is better)"]


def test_a_long_ranking_is_plotted_in_part(results, monkeypatch):
    monkeypatch.setattr("vbx.heads.report.MOST_PLOTTED", 3)
    ranking = rank_results(results)
    assert "The plots show the best 3 of 4 settings." in list_notes(ranking, results)
    spec = make_plots(ranking, results).to_dict()
    assert len({row["setting"] for rows in spec["datasets"].values() for row in rows}) == 3
