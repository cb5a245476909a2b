"""The comparisons on corpora they have never seen: without speakers, without dev, with one task, with the paper's."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from vbx.cache.importing import import_vectors
from vbx.cache.store import Store
from vbx.cache.vectors import Vectors
from vbx.errors import CacheError, RecipeError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
QUICK = ["--seeds", "2", "--set", "fit.epochs=8", "--set", "fit.lr=0.02", "--set", "trunk.hidden=[8]"]
EMOTIONS = ["Awe", "Excitement", "Amusement", "Awkwardness", "Fear", "Horror", "Distress", "Triumph", "Sadness", "Surprise"]  # fmt: skip  # noqa: E501


@pytest.fixture
def compare(tmp_path, monkeypatch, capsys):
    """Runs a comparison on the cache of the test, and gives what it printed as JSON."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def run(name, corpus, *words, quick=QUICK, as_json=True):
        script = importlib.import_module(f"compare_{name}")
        argv = [corpus, "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out"), *quick, *words]
        capsys.readouterr()
        script.main([*argv, "--json"] if as_json else argv)
        said = capsys.readouterr().out
        return json.loads(said) if as_json else said

    return run


@pytest.fixture
def make(tmp_path):
    """Makes a corpus in the cache: labels, and features of which the first number carries `signal` of the emotion."""

    def put(corpus, splits=("train", "train", "dev", "test"), signals=None, rows=96, **labels):
        rng = np.random.default_rng(1)
        joy = np.arange(rows) // len(splits) % 2
        table = {"split": list(splits) * (rows // len(splits)), "emotion": np.where(joy, "joy", "fear"), **labels}
        for name, signal in (signals or {"array:strong": 5.0, "array:weak": 0.5, "array:none": 0.0}).items():
            x = rng.standard_normal((rows, 4 + len(name)))
            x[:, 0] += signal * joy
            import_vectors(Store(tmp_path / "cache"), Vectors.from_arrays(x, table, feature=name, corpus=corpus))

    return put


def test_features_of_a_corpus_without_speakers_and_with_one_task(compare, make):
    make("toy")
    page = compare("features", "toy")
    (table,) = page["tables"]
    first, *_, last = table["ranking"]
    assert first["feature"] == "array:strong" and first["ranked_by"] == "dev.emotion.uar" and first["seeds"] == 2
    assert first["dev.emotion.uar"] > 0.8 > last["dev.emotion.uar"] and first["test.emotion.uar"] > 0.8
    assert first["dev.emotion.uar.low"] <= first["dev.emotion.uar"] <= first["dev.emotion.uar.high"]
    assert page["dims"] == {"array:strong": 16, "array:weak": 14, "array:none": 14} and page["runs"] == 6
    assert first["p"] is None and 0 < last["p"] < 1 and not first["selected_on_test"]
    again = compare("features", "toy")
    assert (again["trained"], again["finished"]) == (0, 6) and again["tables"] == page["tables"]


def test_the_table_has_each_feature_with_its_width(compare, make):
    make("toy", gender=["f", "m", "m"] * 32)
    said = compare("features", "toy", "-f", "array:weak", "-f", "array:strong", as_json=False)
    head, _, *rows = [line.split(" | ") for line in said.splitlines() if line.startswith("|")]
    names = [name.strip(" |") for name in head]
    assert names[:3] == ["rank", "feature", "dims"] and "dev.score" in names and "test.gender.uar" in names
    assert {(row[1].strip(), row[2].strip()) for row in rows} == {("array:weak", "14"), ("array:strong", "16")}
    assert all("±" in row[names.index("dev.score")] and "[" in row[names.index("dev.score")] for row in rows)
    assert not any("[" in row[names.index("dev.emotion.uar")] for row in rows)
    assert "4 runs, 4 trained now" in said


def test_without_dev_the_table_says_that_it_was_selected_on_test(compare, make):
    make("nodev", splits=("train", "train", "test", "test"), speaker=[f"s{i % 8}" for i in range(96)])
    page = compare("features", "nodev")
    assert all(row["selected_on_test"] for row in page["tables"][0]["ranking"])
    assert any("ranked on test" in note for note in page["notes"])
    assert "(selected on test)" in compare("features", "nodev", as_json=False)


def test_batch_sizes_are_compared_on_one_feature(compare, make):
    make("toy")
    page = compare("batch_sizes", "toy", "--set", "fit.batch_size=[4,16]", "-f", "array:strong")
    ranking = page["tables"][0]["ranking"]
    assert {row["fit.batch_size"] for row in ranking} == {4, 16} and page["dims"] == {"array:strong": 16}
    assert {row["fit.batch_size"] for row in compare("batch_sizes", "toy")["tables"][0]["ranking"]} == {2, 4, 8, 16, 32}


def test_seeds_are_rows_that_are_told_apart_over_speakers(compare, make):
    make("toy")
    page = compare("seeds", "toy", "-f", "array:weak", quick=QUICK[2:])
    (table,) = page["tables"]
    assert {row["seed"] for row in table["ranking"]} == {42, 101, 102, 103, 104, 105, 106}
    assert all(row["seeds"] == 1 for row in table["ranking"]) and len({row["run"] for row in table["ranking"]}) == 7
    assert [row["p"] is None for row in table["ranking"]] == [True] + [False] * 6
    values = [row["dev.emotion.uar"] for row in table["ranking"]]
    assert f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}, at best {max(values):.4f}" in table["notes"][0]


def test_each_task_alone_and_all_together(compare, make):
    rng = np.random.default_rng(0)
    make("toy", gender=["f", "m", "m"] * 32, age=rng.uniform(20, 60, 96))
    widths = ["--set", "sweep.trunk.hidden=[[4],[8,8]]"]
    page = compare("stl_mtl", "toy", *widths, "-f", "array:strong", quick=QUICK[:6])
    assert [table["title"].split(" ")[0] for table in page["tables"]] == ["emotion", "age", "gender"]
    for table, task in zip(page["tables"], ("emotion", "age", "gender"), strict=True):
        seen = {(tuple(json.loads(row["tasks"])), row["trunk.hidden"]) for row in table["ranking"]}
        assert seen == {(t, h) for t in ((task,), ("emotion", "age", "gender")) for h in ("[4]", "[8, 8]")}
        assert all(name.split(".")[1] == task for name in table["ranking"][0] if name.startswith(("dev.", "test.")))
    with pytest.raises(RecipeError, match="has one task, 'gender'"):
        compare("stl_mtl", "toy", "--target", "gender")


def test_a_feature_is_compared_with_its_normalised_self(compare, make):
    signals = {"array:a": 0.0, "array:a-norm": 3.0, "array:b": 3.0, "array:b-norm": 0.0, "array:c": 1.0}
    make("toy", signals=signals)
    (table,) = compare("normalisation", "toy")["tables"]
    assert {row["feature"] for row in table["ranking"]} == set(signals) - {"array:c"}
    a, b = table["notes"]
    assert a.startswith("normalising changes dev.emotion.uar of array:a by +0.")
    assert b.startswith("normalising changes dev.emotion.uar of array:b by -0.")
    make("plain")
    with pytest.raises(CacheError, match="no feature with its -norm"):
        compare("normalisation", "plain")


def test_the_papers_head_is_taken_where_the_corpus_has_its_labels(compare, make, tmp_path):
    rng = np.random.default_rng(0)
    labels = {name: rng.uniform(0, 1, 96) for name in EMOTIONS}
    make("exvo", Country=["China", "US", "Venezuela"] * 32, Age=rng.uniform(20, 40, 96), **labels)
    few = ["--seeds", "1", "--set", "fit.epochs=2", "-f", "array:weak"]
    page = compare("features", "exvo", quick=few)
    assert {"dev.emotion.ccc", "dev.country.uar", "dev.age.inverse_mae"} <= set(page["tables"][0]["ranking"][0])
    paper = tmp_path / "paper.toml"
    text = (BENCHMARKS.parent / "vbx/recipes/exvo-atmaja.toml").read_text().replace("w2v2-R-vad", "array:weak")
    paper.write_text(text.replace("\narray:weak =", '\n"array:weak" ='))
    said = compare("features", "exvo", "--recipe", str(paper), quick=few)["tables"][0]["ranking"][0]
    assert said["dev.score.published"] == 0.388  # Table II
    assert said["dev.score.minus_published"] == pytest.approx(said["dev.score"] - 0.388)
    sizes = ["--recipe", str(paper), "--set", "fit.batch_size=[2,16]"]
    rows = compare("batch_sizes", "exvo", *sizes, quick=few)["tables"][0]["ranking"]
    assert {row["fit.batch_size"]: row["dev.score.published"] for row in rows} == {2: 0.393, 16: 0.372}  # Table III


@pytest.fixture
def parry(make, tmp_path):
    """Three corpora, and what to say to compare attributes on them with few and small heads."""
    for name in ("one", "two", "else"):
        speakers = [f"s{i % 8}" for i in range(96)]
        make(name, signals={"array:a": 4.0}, gender=["f", "m", "m"] * 32, speaker=speakers, language=[name[0]] * 96)
    recipe = tmp_path / "small.toml"
    text = (BENCHMARKS.parent / "vbx/recipes/parry-2022.toml").read_text()
    moods = '\n[mapping.emotion]\njoy = "positive"\nfear = "negative"\n'
    recipe.write_text(text[: text.index("\n[mapping.emotion]\n")] + moods)
    return ["--recipe", str(recipe), "--seeds", "1", "--set", "fit.epochs=4", "--set", "trunk.hidden=[6]", "--set", "fit.lr=0.05"]  # fmt: skip  # noqa: E501


def test_attributes_are_compared_inside_and_outside_of_what_is_learnt(compare, parry):
    axis = ["--set", 'attributes=[[],["gender"]]']
    page = compare("adversarial", "two+one+else", "--ood", "one", "--ood", "else", *axis, quick=parry)
    titles = [table["title"].split(";")[0].partition(" ")[2] for table in page["tables"]]
    assert titles == [
        "in domain: two", "out of domain: one, else", "out of domain: one alone", "out of domain: else alone",
    ]  # fmt: skip
    for table in page["tables"]:
        none, gender = table["rows"]
        assert (none["attributes"], gender["attributes"]) == ("none", "gender")
        assert float(none["multitask"].split(" ")[0]) > 0.5
        assert {"multitask", "gradient reversal", "discriminator"} <= set(gender)
    assert page["runs"] == 2 * 4
    with pytest.raises(RecipeError, match="leave some to learn from"):
        compare("adversarial", "one", quick=parry)


@pytest.mark.slow
def test_every_subset_of_attributes_by_every_approach(compare, parry):
    page = compare("adversarial", "one+two+else", quick=parry)
    inside, outside = page["tables"]
    assert "in domain: one, two" in inside["title"] and "out of domain: else" in outside["title"]
    for table in (inside, outside):
        assert table["rows"][0]["attributes"] == "none" and len({row["attributes"] for row in table["rows"]}) == 16
    assert page["runs"] == 2 * 46
