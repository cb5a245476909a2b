"""The page: complete in itself, its numbers those of the ranking, its text harmless."""

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from vbx.cache.vectors import Vectors
from vbx.heads.board import append_results, read_results
from vbx.heads.graphics.figures import make_figures
from vbx.heads.graphics.plots import plot_curves, plot_scores
from vbx.heads.ranking import rank_results
from vbx.heads.report import list_notes, write_report
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
                curve = (0.9, 0.5 + lr, 0.6 + seed / 10)
                done.append(make_result(make_run(seed, lr=lr), scores, data, status=status, curve=curve))
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
    assert "default-src 'none'" in text.split("<script>")[0]  # and a browser is told so
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
    assert len(parsed.scripts) == 3  # the plotter and a figure each: none was smuggled in
    for i, script in enumerate(parsed.scripts[1:]):
        spec = json.loads(script.removeprefix(f'vegaEmbed("#figure-{i}", ').rpartition(', {"actions"')[0])
        assert json.dumps(EVIL)[1:-1] in json.dumps(spec)


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
    spec = plot_scores(ranking, results).to_dict()
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
    monkeypatch.setattr("vbx.heads.graphics.plots.MOST_PLOTTED", 3)
    ranking = rank_results(results)
    assert "The plots show the best 3 of 4 settings." in list_notes(ranking, results)
    spec = plot_scores(ranking, results).to_dict()
    assert len({row["setting"] for rows in spec["datasets"].values() for row in rows}) == 3


def test_published_numbers_are_in_the_plots(results):
    ranking = rank_results(results, published={"toy": {"score": 0.4}})
    spec = plot_scores(ranking, results).to_dict()
    layers = spec["concat"][0]["layer"]
    rows = spec["datasets"][layers[3]["data"]["name"]]
    assert [row["published"] for row in rows if not row["setting"].startswith(EVIL)] == [0.4, 0.4]
    assert len(spec["concat"][1]["layer"]) == 3  # none of test


def test_learning_curves_are_those_of_the_runs(results, tmp_path, vectors, make_run, make_result):
    ranking = rank_results(results)
    spec = plot_curves(ranking, results).to_dict()
    assert len(spec["concat"]) == 4
    panel = spec["concat"][0]
    rows = spec["datasets"][panel["data"]["name"]]
    lr = float(panel["title"]["text"].rpartition(" ")[2])
    for seed in (1, 2, 3):
        curve = [row["value"] for row in rows if row["seed"] == seed]
        np.testing.assert_allclose(curve, [0.9, 0.5 + lr, 0.6 + seed / 10], rtol=1e-6)
        assert [row["best"] for row in rows if row["seed"] == seed] == [False, True, False]
    assert panel["layer"][0]["encoding"]["y"]["title"] == "loss on dev"
    assert plot_curves(ranking, results.assign(curve=None)) is None
    score = make_result(make_run(monitor="score"), {("dev", "score", "hmean"): 0.5}, curve=(-0.25, -0.5))
    append_results(tmp_path / "score", [score], vectors)
    results = read_results(tmp_path / "score")
    spec = plot_curves(rank_results(results), results).to_dict()
    (rows,) = spec["datasets"].values()
    assert [row["value"] for row in rows] == [0.25, 0.5]
    assert spec["concat"][0]["layer"][0]["encoding"]["y"]["title"] == "score on dev"


def test_what_could_not_be_tested_is_said(results):
    assert any("could not be tested against the best: 3" in note for note in list_notes(rank_results(results), results))
    ranking = rank_results(results, best_seed=True)
    notes = list_notes(ranking, results)
    assert any("Best seeds are shown because" in note for note in notes)


def test_a_browser_shows_every_figure(tmp_path, results, vectors, make_run, make_head):
    """Chromium draws the page: no error, nothing fetched, a plot in every place, a picture that is not blank."""
    labels = vectors.labels.assign(rating=[None, 1.5, 2.5, 3.5] * 6, nothing=None)
    colours = ["Country", "Age", "rating", "nothing", "speaker"]
    labelled = replace(vectors, labels=labels)
    figures = make_figures(make_head(make_run()), labelled, "dev", map_with="pca", colour_by=colours)
    ranking = rank_results(results, published={"toy": {"score": 0.4}})
    write_report(ranking, results, tmp_path / "page.html", f"Toys {EVIL}", figures=figures)
    page, said = look_at(tmp_path / "page.html", tmp_path / "page.png")
    assert not [
        line for line in said.splitlines() if "CONSOLE" in line and re.search("rror|Refused|Uncaught|WARN", line)
    ]
    assert len(figures) == 3 and re.findall(r'id="figure-(\d)" class="vega-embed"', page) == list("01234")
    svgs = re.findall(r'<svg[^>]*class="marks".*?</svg>', page, re.S)
    assert len(svgs) == 5
    marks = {0: "mark-rule", 1: "mark-line", 2: "mark-rect", 3: "mark-symbol", 4: "mark-symbol"}
    for i, kind in marks.items():
        drawn = re.findall(rf'class="{kind} role-mark[^"]*"[^>]*>(.*?)</g>', svgs[i], re.S)
        assert sum(group.count("<path") + group.count("<line") for group in drawn) > 3, i
    assert "Predicted against true" in page and "alert(1)" in page
    shades = np.frombuffer((tmp_path / "page.png").read_bytes(), np.uint8)
    assert len(shades) > 30_000  # a blank page of this size takes a tenth


def look_at(path, picture):
    """What Chromium makes of a page: the document once its scripts have run, and what it said."""
    browser = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
    )
    if not browser:
        pytest.skip("there is no Chromium to look at the page with (Debian: apt-get install chromium)")
    quiet = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    quiet += " --disable-component-update --disable-sync --hide-scrollbars --window-size=1250,2600"
    quiet += " --virtual-time-budget=20000 --enable-logging=stderr"
    done = []
    for what in ("--dump-dom", f"--screenshot={picture}"):
        with tempfile.TemporaryDirectory() as profile:
            words = [browser, *quiet.split(), f"--user-data-dir={profile}", what, path.as_uri()]
            done.append(subprocess.run(words, capture_output=True, text=True, timeout=120, check=True))
    return done[0].stdout, done[0].stderr
