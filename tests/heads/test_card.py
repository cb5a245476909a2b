"""Model cards: their numbers are those of the results, their code runs."""

import re
import runpy
from dataclasses import replace

import numpy as np
import pytest
import yaml

from vbx.cache.feature import Part, read_feature
from vbx.cache.spec import EncoderSpec
from vbx.heads.board import append_results, read_results
from vbx.heads.calibration import Calibration
from vbx.heads.card import LOADING, CorpusFacts, find_licence, make_card, write_card
from vbx.heads.export import export_onnx, export_torch
from vbx.heads.head import apply_head
from vbx.heads.parts import Task

TOLD = Calibration(
    {"country": 1.25}, {"emotion": (0.11, np.inf), "age": (4.5,)}, {"country": 6, "emotion": 5, "age": 6}
)
VAD = "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim"


@pytest.fixture
def results(tmp_path, vectors, make_run, make_result):
    """Three seeds of one setting, one run of another, and one on other vectors."""
    draws = np.random.default_rng(0).normal(0.5, 0.1, 1006).astype(np.float32)
    values = {1: 0.4, 2: 0.5, 3: 0.9}
    made = [
        make_result(make_run(seed), {("dev", "country", "uar"): (value, draws), ("test", "age", "mae"): (9.0, draws)})
        for seed, value in values.items()
    ]
    made.append(make_result(make_run(7, epochs=3), {("dev", "country", "uar"): 0.01}))
    append_results(tmp_path / "out", made, vectors)
    return read_results(tmp_path / "out"), draws


@pytest.fixture
def head(make_run, make_head):
    return replace(make_head(make_run(2)), calibration=TOLD)


def section(card, title):
    return re.search(rf"^## {title}\n\n(.*?)(?=^## |\Z)", card, re.DOTALL | re.MULTILINE)[1]


def test_metrics_are_those_of_the_run_and_of_its_seeds(head, results):
    frame, draws = results
    text = section(make_card(head, "onnx", frame, CorpusFacts()), "Metrics")
    low, high = np.percentile(draws[:1000], [2.5, 97.5])
    mean, sd = np.mean([0.4, 0.5, 0.9]), np.std([0.4, 0.5, 0.9], ddof=1)
    assert f"| dev | country.uar | 0.500 | {low:.3f} to {high:.3f} | {mean:.3f} ± {sd:.3f} |" in text
    assert "3 runs that differ in the seed" in text and "0.010" not in text
    without = make_card(head, "onnx", frame[frame["seed"] == 7], CorpusFacts())
    assert "none of this run" in section(without, "Metrics")


def test_the_hub_reads_its_front(head, results):
    front = yaml.safe_load(make_card(head, "torch", results[0], CorpusFacts()).split("---\n")[1])
    assert front["library_name"] == "vbx" and front["license"] == "other"
    (index,) = front["model-index"]
    found = {(r["dataset"]["split"], m["name"]): m["value"] for r in index["results"] for m in r["metrics"]}
    assert found == {("dev", "country.uar"): 0.5, ("test", "age.mae"): 9.0}
    assert {"classification", "regression"} <= set(front["tags"])


def test_corpus_feature_and_digest_are_told(head, results):
    spec = EncoderSpec("wav2vec2", VAD, weights="c" * 64)
    known = replace(head, parts=(Part(spec, ("hidden", "logits"), "w2v2-R-emotion", name="w2v2-R-vad"),))
    card = make_card(known, "onnx", results[0], CorpusFacts({"train": 12, "dev": 6}, {"train": 4}))
    assert "| train | 12 | 4 |\n| dev | 6 | not known |" in section(card, "Corpus")
    assert "`emotion` from Awe, Joy; `country` from Country; `age` from Age" in section(card, "Corpus")
    feature = section(card, "Feature")
    assert "c" * 64 in feature and spec.key in feature and head.vectors_key in feature and "hidden, logits" in feature
    assert "they came from an array" in section(make_card(head, "onnx", results[0], CorpusFacts()), "Feature")


@pytest.mark.parametrize("kind", ["onnx", "onnx-with-encoder"])
def test_the_licence_of_the_encoder_says_what_it_binds(kind, head, results):
    spec = EncoderSpec("onnx", VAD, weights="c" * 64)
    known = replace(head, parts=(Part(spec, ("hidden",), "w2v2-R-emotion", name="w2v2-R-er"),))
    card = make_card(known, kind, results[0], CorpusFacts())
    text, front = section(card, "Licence"), yaml.safe_load(card.split("---\n")[1])
    assert "w2v2-R-er: CC BY-NC-SA 4.0: no commercial use" in text
    whole = kind == "onnx-with-encoder"
    assert front["license"] == ("cc-by-nc-sa-4.0" if whole else "other")
    assert ("This file holds the encoder's weights" in text) is whole


def test_licences_are_those_of_the_catalogue():
    assert "openSMILE" in (find_licence(read_feature("compare").parts[0]) or "")
    assert find_licence(read_feature("w2v2-R@layers").parts[0]) == "Apache-2.0"
    assert find_licence(read_feature("hf:org/name").parts[0]) == "see https://huggingface.co/org/name"
    assert find_licence(read_feature("onnx:mine/model.onnx").parts[0]) is None


def test_calibration_is_told_with_what_it_promises(head, results, make_run, make_head):
    text = section(make_card(head, "onnx", results[0], CorpusFacts()), "Calibration")
    assert "`country`: logits are divided by 1.250" in text and "fitted on 6 utterances" in text
    assert "`Age`: ± 4.5 holds 90%" in text and "`Awe`: ± 0.11" in text and "`Joy`: too few" in text
    assert "training weighted the classes" not in text
    country = Task("country", ("Country",), "cross_entropy", ("uar",), class_weights="inverse")
    weighted = replace(make_head(make_run(tasks=(country,))), calibration=TOLD)
    text = section(make_card(weighted, "onnx", results[0], CorpusFacts()), "Calibration")
    assert "though training weighted the classes" in text and "Age" not in text
    bare = make_card(replace(head, calibration=None), "onnx", results[0], CorpusFacts())
    assert "None: there was no dev split" in section(bare, "Calibration")


def test_what_is_not_exported_is_not_described(results, make_run, make_head):
    country = Task("country", ("Country",), "cross_entropy", ("uar",))
    age = Task("age", ("Age",), "mse", ("mae",), role="adversarial")
    card = make_card(make_head(make_run(tasks=(country, age))), "onnx", results[0], CorpusFacts())
    assert "`country`: probabilities of Brazil, China, US" in card and "`age`" not in card


@pytest.mark.parametrize(("kind", "export"), [("torch", export_torch), ("onnx", export_onnx)])
def test_its_code_runs(kind, export, head, results, tmp_path, monkeypatch):
    folder = tmp_path / "made"
    export(head, folder)
    write_card(head, kind, folder, results[0], CorpusFacts())
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    (tmp_path / "code.py").write_text(code)
    monkeypatch.chdir(folder)
    outputs = runpy.run_path(str(tmp_path / "code.py"))["outputs"]
    for name, values in apply_head(head, np.zeros((1, 5))).items():
        np.testing.assert_allclose(outputs[name], values, rtol=1e-5, atol=1e-6)


def test_every_kind_of_export_has_code():
    assert set(LOADING) == {"torch", "onnx", "onnx-with-encoder"}
    assert all("outputs = " in code for code in LOADING.values())
