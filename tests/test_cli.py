"""The command line: every command, its JSON, its errors in one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

Vbx = Callable[..., tuple[int, str, str]]


@pytest.fixture
def vbx(command_line: Vbx, monkeypatch: pytest.MonkeyPatch, place: Path) -> Vbx:
    """Run a command in `place`: exit code, stdout, stderr."""
    monkeypatch.chdir(place)

    return command_line


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of tones whose pitch tells the class and whose level tells the age."""
    place = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    rows = []
    (place / "tones").mkdir()
    for i in range(60):
        low, level = i % 2 == 0, 0.1 + 0.8 * rng.random()
        t = np.arange(4000) / 16000
        wave = level * np.sin(2 * np.pi * (150 if low else 400) * t) + 0.001 * rng.standard_normal(4000)
        soundfile.write(place / "tones" / f"{i:02d}.wav", wave, 16000)
        row = {"file": f"{i:02d}.wav", "speaker": f"{i % 10:02d}", "emotion": "low" if low else "high", "level": level}
        rows.append({**row, "comment": f"no {i}"})
    pd.DataFrame(rows).to_csv(place / "tones" / "labels.csv", index=False)
    return place


@pytest.fixture
def extracted(vbx: Vbx, place: Path) -> dict[str, Any]:
    code, out, err = vbx("extract", "tones", "-f", "prosody", "-f", "noise", "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.fixture
def trained(vbx: Vbx, extracted: dict[str, Any]) -> dict[str, Any]:
    words = ["-f", "prosody", "-f", "noise", "--target", "emotion", "--target", "level", "--set", "fit.epochs=15"]
    code, out, err = vbx("heads", "train", *words, "--seeds", "2", "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def test_extract_ends_with_one_object(extracted: dict[str, Any], vbx: Vbx) -> None:
    assert extracted["corpus"] == "tones"
    (prosody, noise) = extracted["features"]
    assert prosody["feature"] == "prosody" and noise["utterances"] == 60
    assert prosody["extracted"] + prosody["cached"] == 60 and prosody["failed"] == 0
    again = json.loads(vbx("extract", "tones", "-f", "prosody", "--json")[1])["features"][0]
    assert (again["extracted"], again["cached"]) == (0, 60)


def test_extract_tells_people_what_it_did(vbx: Vbx, place: Path) -> None:
    shutil.copytree(place / "tones", place / "spoilt", dirs_exist_ok=True)
    for i in range(12):
        (place / "spoilt" / f"{i:02d}.wav").write_text("not audio")
    code, out, err = vbx("extract", "spoilt", "-f", "noise", "--cache", "spoilt-cache")
    assert code == 0 and "48" in out
    assert err.count("no vector:") == 10 and "and 2 more" in err
    assert vbx("extract", "spoilt", "-f", "noise", "--cache", "spoilt-cache", "--strict")[0] == 1
    code, out, err = vbx("cache", "drop", "noise", "--failed", "--yes", "--cache", "spoilt-cache")
    assert code == 0 and "1 units dropped" in err


def test_a_dry_run_tells_what_it_costs_and_writes_nothing(vbx: Vbx, place: Path) -> None:
    code, out, _ = vbx("extract", "tones", "-f", "noise", "--cache", "nowhere", "--dry-run", "--json")
    plan = json.loads(out)
    assert code == 0 and not (place / "nowhere").exists()
    assert plan["files"] == 60 and plan["features"][0]["missing"] == 60 and plan["features"][0]["bytes"] == 60 * 64
    assert plan["audio_h"] == pytest.approx(60 * 0.25 / 3600, abs=1e-4)


def test_a_dry_run_needs_no_weights(vbx: Vbx, place: Path) -> None:
    code, out, _ = vbx(
        "extract", "tones", "-f", "w2v2-R-vad", "--checkpoint", "w2v2-R-vad=not/there", "--dry-run", "--json"
    )
    plan = json.loads(out)
    assert code == 0 and plan["features"][0] | {"audio_h": 0} == {
        "feature": "w2v2-R-vad", "cached": 0, "missing": 60, "audio_h": 0, "bytes": 60 * 1027 * 4
    }  # fmt: skip
    assert "not/there" in plan["notes"][-1]


def test_an_empty_cache_is_told(vbx: Vbx) -> None:
    assert "is empty" in vbx("cache", "ls", "--cache", "nowhere-yet")[2]
    assert vbx("cache", "check", "--cache", "nowhere-yet")[0] == 0


def test_training_is_not_done_twice_and_learns(trained: dict[str, Any], vbx: Vbx) -> None:
    best = trained["ranking"][0]
    assert best["feature"] == "prosody" and best["seeds"] == 2
    assert best["test.emotion.uar"] > 0.9
    words = ["-f", "prosody", "-f", "noise", "--target", "emotion", "--target", "level", "--set", "fit.epochs=15"]
    code, out, _ = vbx("heads", "train", *words, "--seeds", "2", "--json")
    assert (json.loads(out)["trained"], json.loads(out)["finished"]) == (0, 4)
    code, out, err = vbx("heads", "train", *words, "--seeds", "3", "--dry-run", "--json")
    plan = json.loads(out)
    assert [(row["runs"], row["to_train"], row["shapes"]) for row in plan["features"]] == [(3, 1, 1), (3, 1, 1)]
    assert (plan["runs"], plan["to_train"], plan["shapes"], plan["measured"]) == (6, 2, 2, 2) and plan["seconds"] > 0
    code, out, err = vbx("heads", "train", *words, "--seeds", "3", "--dry-run")
    assert "6 runs, 2 to train: about" in err and "of 2 of 2 shapes" in err
    code, out, err = vbx("heads", "train", *words, "--seeds", "2", "--dry-run")
    assert "4 runs, 0 to train" in err


def test_a_search_samples_and_goes_on(vbx: Vbx, extracted: dict[str, Any], place: Path) -> None:
    pytest.importorskip("optuna")
    words = ["-f", "prosody", "-f", "noise", "--target", "emotion", "--set", "fit.epochs=3", "--search", "optuna"]
    words += ["--set", "fit.lr={low=1e-4, high=1e-2, log=true}", "--seeds", "2", "--out", "searched"]
    code, out, err = vbx("heads", "train", *words, "--trials", "3", "--dry-run", "--json")
    plan = json.loads(out)
    assert code == 0 and (plan["trials"], plan["runs"]) == (3, 6) and not (place / "searched").exists()
    code, out, err = vbx("heads", "train", *words, "--trials", "3", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["trials"], found["complete"], found["trained"]) == (3, 3, 6)
    assert 1e-4 <= found["best"]["settings"]["fit.lr"] <= 1e-2 and len(found["ranking"]) == 3
    assert found["best"]["dev"] == pytest.approx(max(row["dev.score"] for row in found["ranking"]))
    code, out, err = vbx("heads", "train", *words, "--trials", "4")
    assert code == 0 and "4 of 4 trials" in err and "2 runs trained" in err
    code, _, err = vbx("heads", "train", "-f", "noise", "--target", "emotion", "--set", "fit.lr={low=1e-4, high=1e-2}")
    assert code == 1 and "--search optuna" in err
    assert "did you mean 'optuna'" in vbx("heads", "train", "-f", "noise", "--search", "optna")[2]


def test_ctrl_c_saves_and_says_how_to_go_on(
    vbx: Vbx, extracted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vbx.heads import sweep

    words = ["heads", "train", "-f", "noise", "--target", "emotion", "--set", "fit.epochs=2", "--out", "stopped"]
    real = sweep.each_stack

    def each_stack(*args: Any, **more: Any) -> Any:
        for results in real(*args, **more):
            yield results
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "each_stack", each_stack)
        code, _, err = vbx(*words, "--seeds", "4")
    assert code == 130 and "saved in stopped, 3 runs are left; the same command goes on" in err
    code, _, err = vbx(*words, "--seeds", "4")
    assert code == 0 and "3 runs trained, 1 were finished before" in err


def test_runs_of_other_processes_are_told(vbx: Vbx, extracted: dict[str, Any], place: Path) -> None:
    from vbx.cache.store import Store
    from vbx.heads.board import read_keys
    from vbx.heads.recipe import read_recipe
    from vbx.heads.results.claims import open_claims
    from vbx.heads.sweep import plan_sweep

    words = ["-f", "noise", "--target", "emotion", "--set", "fit.epochs=2", "--out", "others", "--seeds"]
    recipe = read_recipe("default", {"fit.epochs": 2, "seed": [1, 2], "feature": "noise"})
    (theirs,) = plan_sweep(recipe, Store("vbx-cache").load_vectors, [("tones", "noise")], Path("others"), ["emotion"])
    with open_claims(Path("others"), read_keys) as claims:
        claims.take(run.key_on(theirs.vectors) for run in theirs.runs)
        code, out, err = vbx("heads", "train", *words, "2")
        assert code == 0 and "2 runs are not there yet, other processes (1) train them" in err
        code, out, err = vbx("heads", "train", *words, "3", "--json")
        found = json.loads(out)
        assert (found["trained"], found["under_way"], found["processes"]) == (1, 2, 1) and len(found["ranking"]) == 1


def test_training_needs_no_argument(vbx: Vbx, extracted: dict[str, Any]) -> None:
    code, _, err = vbx("heads", "train", "--set", "fit.epochs=2", "--seeds", "1", "--out", "plain")
    assert code == 0, err
    assert "learning emotion" in err


def test_rank_in_every_format(trained: dict[str, Any], vbx: Vbx, place: Path) -> None:
    code, out, _ = vbx("heads", "rank")
    assert code == 0 and "prosody" in out and "±" in out
    assert "prosody" in vbx("heads", "rank", "--format", "md")[1]
    assert len(vbx("heads", "rank", "--format", "csv")[1].splitlines()) == 3
    assert len(json.loads(vbx("heads", "rank", "--json")[1])) == 2
    code, _, err = vbx("heads", "rank", "--by", "emotion.uat")
    assert code == 1 and "did you mean 'emotion.uar'" in err
    assert "emotion.uar" in vbx("heads", "rank")[1]
    assert vbx("heads", "rank", "--html", "page.html")[0] == 0
    assert (place / "page.html").read_text().startswith("<!")
    assert all("p_holm" in row and "run" in row for row in json.loads(vbx("heads", "rank", "--json")[1]))
    assert "best seed" not in vbx("heads", "rank")[1] and "best seed" in vbx("heads", "rank", "--best-seed")[1]


def test_report_with_and_without_the_cache(trained: dict[str, Any], vbx: Vbx, place: Path) -> None:
    code, _, err = vbx("heads", "report", "--map", "pca")
    assert code == 0 and "report.html" in err
    page = (place / "vbx-heads" / "report.html").read_text()
    titles = ("Leaderboard", "Scores", "Learning curves", "Confusions", "Predicted against true", "Map of the")
    assert all(f"<h2>{title}" in page for title in titles)
    assert vbx("heads", "rank")[0] == 0  # the page does not disturb the results
    code, _, err = vbx("heads", "report", "--cache", "nowhere", "--html", "bare.html")
    assert code == 0 and "left out" in err
    bare = (place / "bare.html").read_text()
    assert "<h2>Learning curves" in bare and "<h2>Confusions" not in bare and "left out" in bare
    assert vbx("heads", "report", "--colour-by", "speakr")[0] == 1


def test_predict_from_audio_equals_predict_from_the_cache(trained: dict[str, Any], vbx: Vbx) -> None:
    files = ["tones/00.wav", "tones/01.wav"]
    code, out, err = vbx("heads", "predict", "best", *files, "--json")
    assert code == 0, err
    from_audio = json.loads(out)
    from_cache = {
        row["id"]: row for row in json.loads(vbx("heads", "predict", "best", "--corpus", "tones", "--json")[1])
    }
    for row, name in zip(from_audio, ("00.wav", "01.wav"), strict=True):
        for key, value in row.items():
            if key != "id":
                assert from_cache[name][key] == (
                    pytest.approx(value, rel=1e-4, abs=1e-5) if isinstance(value, float) else value
                )
    test = json.loads(vbx("heads", "predict", "best", "--corpus", "tones", "--split", "test", "--json")[1])
    assert 0 < len(test) < 60
    assert vbx("heads", "predict", "best")[0] == 1
    code, out, err = vbx("heads", "predict", "best", "tones/00.wav", "tones/lost.wav")
    assert code == 0 and "no prediction: tones/lost.wav" in err and len(out.splitlines()) == 2


def test_export_of_a_head(trained: dict[str, Any], vbx: Vbx, place: Path) -> None:
    assert vbx("heads", "export", "best", "--to", "torch", "--folder", "as-torch")[0] == 0
    assert vbx("heads", "export", "best", "--to", "onnx", "--folder", "as-onnx")[0] == 0
    assert (place / "as-onnx" / "model.yaml").exists() and any((place / "as-torch").glob("*.safetensors"))
    assert "did you mean 'onnx'" in vbx("heads", "export", "best", "--to", "onx")[2]


def test_the_cache_is_listed_checked_explained_and_exported(extracted: dict[str, Any], vbx: Vbx, place: Path) -> None:
    rows = json.loads(vbx("cache", "ls", "--json")[1])
    assert {row["output"]: row["vectors"] for row in rows if row["corpus"] == "tones"} == {
        "functionals": 60,
        "hidden": 60,
    }
    assert vbx("cache", "check")[0] == 0
    assert "nothing would be extracted" in vbx("cache", "why", "noise")[1]
    verdict = json.loads(vbx("cache", "why", "egemaps", "--json")[1])[0]["verdict"]
    assert "nothing of this model" in verdict
    for kind in ("hdf5", "npz", "parquet", "csv"):
        assert vbx("cache", "export", "noise+prosody", "--to", kind, "--out", f"export.{kind}")[0] == 0
        assert (place / f"export.{kind}").stat().st_size > 0
    assert vbx("cache", "gc")[0] == 0
    code, out, _ = vbx("audit", "tones", "-f", "noise", "--sample", "3", "--json")
    assert code == 0 and json.loads(out)[0]["max_abs"] == 0.0
    shutil.copytree(place / "vbx-cache", place / "broken", dirs_exist_ok=True)
    shard = next((place / "broken").rglob("c/0/0"))
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    code, out, err = vbx("cache", "check", "--cache", "broken", "--json")
    assert code == 1 and "c/0/0" in json.loads(out)[0]["path"]
    assert vbx("cache", "drop", "--damaged", "--cache", "broken")[0] == 0
    assert vbx("cache", "check", "--cache", "broken")[0] == 0
    assert vbx("cache", "drop", "--corpus", "tones", "--cache", "broken", "--yes")[0] == 0


def test_list_show_and_doctor(extracted: dict[str, Any], vbx: Vbx) -> None:
    for kind in ("features", "encoders", "readers", "losses", "metrics", "recipes", "corpora"):
        rows = json.loads(vbx("list", kind, "--json")[1])
        assert rows and all(all(v not in (None, "") for k, v in row.items() if k != "source") for row in rows), kind
    assert "CC BY-NC-SA" in vbx("show", "feature", "w2v2-R-vad")[1]
    assert "[[task]]" in vbx("show", "recipe", "exvo-atmaja")[1]
    assert json.loads(vbx("show", "recipe", "default", "--json")[1])["name"] == "default"
    rows = {row["label"]: row["kind"] for row in json.loads(vbx("show", "corpus", "tones", "--json")[1])}
    assert rows == {"split": "class", "speaker": "text", "emotion": "class", "level": "number", "comment": "text"}
    code, out, _ = vbx("doctor", "--json")
    states = {row["what"]: row["state"] for row in json.loads(out)}
    assert code == 0 and states["torch"] == "ok" and states["onnxruntime on CUDA"] in {"ok", "absent", "warning"}


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        ("extract tones -f nois", "did you mean 'noise'"),
        ("extract tonez -f noise", "no corpus at 'tonez'"),
        ("extract tones -f noise --reader tabel", "did you mean 'table'"),
        ("extract tones -f noise --label emotoin:class", "did you mean 'emotion'"),
        ("extract tones -f noise --label emotion:clas", "did you mean 'class'"),
        ("extract tones -f noise --device cuda:77", "cuda:77"),
        ("extract tones -f noise --part 3/2", "3/2"),
        ("extract tones -f noise --format zar", "did you mean 'zarr'"),
        ("extract tones -f noise --resampler soxr-HO", "did you mean 'soxr-HQ'"),
        ("extract tones -f noise --checkpoint noise", "NAME=VALUE"),
        ("extract tones -f w2v2-R --checkpoint w2v2-R=nowhere/at/all", "nowhere/at/all"),
        ("heads train -f noise --target emotoin", "did you mean 'emotion'"),
        ("heads train -f noise --target comment", "--label comment:class"),
        ("heads train -f noise --set fit.epoch=3", "did you mean 'fit.epochs'"),
        ("heads train -f noise --recipe defualt", "did you mean 'default'"),
        ("heads train -f noise --corpus tonse", "did you mean 'tones'"),
        ("heads train -f compare --target emotion", "no vectors of 'compare'"),
        ("heads train -f noise --device gpu", "gpu"),
        ("heads rank nothing-here", "nothing-here"),
        ("heads predict best --corpus tones --split tset --out vbx-heads", "did you mean 'test'"),
        ("cache export nois", "did you mean 'noise'"),
        ("cache export noise --to hdf", "did you mean 'hdf5'"),
        ("cache check --corpus tonse", "did you mean 'tones'"),
        ("list feature", "did you mean 'features'"),
        ("show feature egemap", "did you mean 'egemaps'"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_nearest_name(
    vbx: Vbx, trained: dict[str, Any], words: str, nearest: str
) -> None:
    code, _, err = vbx(*words.split())
    assert code == 1
    sentence = err.strip().splitlines()
    assert len(sentence) == 1 and sentence[0].startswith("vbx: "), err
    assert nearest in sentence[0]
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["extract", "heads train"])
def test_examples_in_the_help_stay_on_lines_of_their_own(vbx: Vbx, command: str) -> None:
    _, out, _ = vbx(*command.split(), "--help")
    lines = [line for line in out.splitlines() if line.startswith(f"  vbx {command} ")]
    assert len(lines) >= 3
    assert "\\b" not in out


def test_wrong_usage_is_2_and_help_is_0(vbx: Vbx) -> None:
    assert vbx("extract")[0] == 2
    assert vbx("extract", "--nonsense")[0] == 2
    for words in (["--help"], ["extract", "--help"], ["heads", "train", "--help"], ["cache", "--help"]):
        code, out, _ = vbx(*words)
        assert code == 0 and len(out) > 200
