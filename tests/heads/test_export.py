"""Exported heads give the numbers of the head they were made from."""

import json
from dataclasses import replace

import audonnx
import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.numpy import load_file

from vbx.errors import CacheError, RecipeError
from vbx.heads.activations import ACTIVATIONS
from vbx.heads.calibration import Calibration
from vbx.heads.export import OPERATORS, export_onnx, export_torch, load_exported
from vbx.heads.head import apply_head
from vbx.heads.parts import Task, Trunk

TRUNKS = {
    "layer norm": Trunk((9, 8)),
    "no norm": Trunk((9,), norm="none"),
    "no trunk": Trunk(()),
    "dropout": Trunk((9,), dropout=0.5),
    **{name: Trunk((9, 8), activation=name) for name in ACTIVATIONS},
}


@pytest.fixture(params=TRUNKS)
def head(request, make_run, make_head):
    return make_head(make_run(3, trunk=TRUNKS[request.param]))


@pytest.fixture
def x():
    return (3 * np.random.default_rng(1).standard_normal((50, 5))).astype(np.float32)


def assert_equal(ours, theirs, atol=1e-5):
    assert ours.keys() == theirs.keys()
    for task in theirs:
        np.testing.assert_allclose(ours[task], theirs[task], atol=atol, rtol=1e-5)


def test_audonnx_gives_what_apply_head_gives(tmp_path, head, x):
    export_onnx(head, tmp_path / "new" / "folder")
    model = audonnx.load(str(tmp_path / "new" / "folder"))
    assert_equal(model(x), apply_head(head, x))
    alone = model(x[7])
    assert_equal(alone, apply_head(head, x[7:8]))
    assert alone["country"].shape == (1, 3)


def test_onnx_says_what_goes_in_and_out(tmp_path, make_head, make_run, vectors):
    head = make_head(make_run())
    export_onnx(head, tmp_path)
    model = audonnx.load(str(tmp_path))
    assert list(model.inputs) == ["feature"] and model.inputs["feature"].shape == [-1, 5]
    assert list(model.outputs) == ["emotion", "country", "age"]
    assert model.outputs["country"].labels == list(vectors.schema["Country"].classes) == ["Brazil", "China", "US"]
    assert model.outputs["emotion"].labels == ["Awe", "Joy"] and model.outputs["age"].labels == ["Age"]
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["columns"]) == list(vectors.columns) and about["run"] == head.run.key
    np.testing.assert_allclose(model(vectors.x)["country"].sum(1), 1, rtol=1e-6)


def test_the_same_head_gives_the_same_bytes(tmp_path, make_head, make_run):
    for name in "ab":
        export_onnx(make_head(make_run()), tmp_path / name)
        export_torch(make_head(make_run()), tmp_path / name)
    for file in ("model.onnx", "model.yaml", "head.json", "head.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_head_of_float64_is_exported_as_float32(tmp_path, make_head, make_run, x):
    head = make_head(make_run(dtype="float64"))
    export_onnx(head, tmp_path)
    assert_equal(audonnx.load(str(tmp_path))(x), apply_head(head, x))
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert kinds == {onnx.TensorProto.FLOAT}


def test_one_task_is_one_array(tmp_path, make_head, make_run, x):
    head = make_head(make_run(tasks=(Task("country", ("Country",), "focal", ("uar",)),)))
    export_onnx(head, tmp_path)
    np.testing.assert_allclose(audonnx.load(str(tmp_path))(x), apply_head(head, x)["country"], atol=1e-6)


def test_a_calibrated_head_is_exported_calibrated(tmp_path, make_head, make_run, x):
    told = Calibration({"country": 2.5}, {"age": (3.0,), "emotion": (0.1, 0.2)}, {"country": 20})
    plain = make_head(make_run())
    head = replace(plain, calibration=told)
    export_onnx(head, tmp_path / "onnx")
    export_torch(head, tmp_path / "torch")
    ours = audonnx.load(str(tmp_path / "onnx"))(x)
    assert_equal(ours, apply_head(head, x))
    assert np.abs(ours["country"] - apply_head(plain, x)["country"]).max() > 0.05
    again = load_exported(tmp_path / "torch")
    assert again.calibration == told
    np.testing.assert_array_equal(apply_head(again, x)["country"], apply_head(head, x)["country"])
    props = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx")).get_modelmeta().custom_metadata_map
    assert json.loads(props["calibration"])["widths"]["age"] == [3.0]


def test_what_the_trunk_unlearnt_is_not_exported(tmp_path, make_head, make_run, x):
    emotion = Task("emotion", ("Awe", "Joy"), "mse", ("ccc",), hidden=(4,), role="auxiliary")
    country = Task("country", ("Country",), "cross_entropy", ("uar",))
    age = Task("age", ("Age",), "mse", ("mae",), hidden=(3,), role="adversarial")
    spy = Task("spy", ("Age",), "mse", ("mae",), hidden=(3,), role="discriminator")
    head = make_head(make_run(tasks=(age, emotion, spy, country)))
    export_onnx(head, tmp_path)
    outputs = audonnx.load(str(tmp_path))(x)
    assert_equal(outputs, {name: v for name, v in apply_head(head, x).items() if name in ("emotion", "country")})
    names = {tensor.name for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert not [name for name in names if name.startswith(("age", "spy"))]


def test_what_onnx_cannot_do_is_refused(tmp_path, make_head, make_run):
    with pytest.raises(RecipeError, match="--to torch"):
        export_onnx(make_head(make_run(scale_by_speaker=True)), tmp_path)
    with pytest.raises(RecipeError, match="name of the model's input"):
        export_onnx(make_head(make_run(tasks=(Task("feature", ("Age",), "mse", ("ccc",)),))), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_activation_has_its_operators():
    assert OPERATORS.keys() == ACTIVATIONS.keys()


def test_torch_export_comes_back(tmp_path, head, x):
    export_torch(head, tmp_path)
    again = load_exported(tmp_path)
    assert again.run == head.run and again.classes == head.classes and again.columns == head.columns
    assert (again.feature, again.corpus, again.vectors_key) == (head.feature, head.corpus, head.vectors_key)
    for task, values in apply_head(head, x).items():
        np.testing.assert_array_equal(apply_head(again, x)[task], values)


def test_json_alone_says_how_to_use_the_weights(tmp_path, make_head, make_run, x):
    """What `how_to_load` says, in numpy, for a head without what needs more than a line."""
    head = make_head(make_run(trunk=Trunk((9,), activation="relu")))
    export_torch(head, tmp_path)
    about, w = json.loads((tmp_path / "head.json").read_text()), load_file(tmp_path / "head.safetensors")
    assert "load_exported" in about["how_to_load"] and about["run"]["trunk"]["activation"] == "relu"
    outputs, shared = {}, (x - w["centre"]) / w["spread"]
    values = shared
    for layer in about["layers"]:
        name = layer["name"]
        if not name.startswith("trunk") and name.split(".")[0] not in outputs:
            outputs[name.split(".")[0]] = values = shared
        values = values @ w[f"{name}.weight"].T + w[f"{name}.bias"]
        if layer["norm"]:
            centred = values - values.mean(1, keepdims=True)
            values = centred / np.sqrt(centred.var(1, keepdims=True) + 1e-5)
            values = values * w[f"{name}.norm.weight"] + w[f"{name}.norm.bias"]
        values = np.maximum(values, 0) if layer["active"] else values
        if name.startswith("trunk"):
            shared = values
        else:
            outputs[name.split(".")[0]] = values
    outputs["emotion"] = 1 / (1 + np.exp(-outputs["emotion"]))
    odds = np.exp(outputs["country"] - outputs["country"].max(1, keepdims=True))
    outputs["country"] = odds / odds.sum(1, keepdims=True)
    assert_equal(outputs, apply_head(head, x))


@pytest.mark.parametrize("file", ["head.json", "head.safetensors"])
def test_damaged_exports_are_found(tmp_path, make_head, make_run, file):
    export_torch(make_head(make_run()), tmp_path)
    path, whole = tmp_path / file, (tmp_path / file).read_bytes()
    for data in (whole[:-9], b"{}", whole.replace(b"China", b"Chino") if file == "head.json" else whole[:-1] + b"\x7f"):
        path.write_bytes(data)
        with pytest.raises(CacheError, match="damaged"):
            load_exported(tmp_path)
    path.unlink()
    with pytest.raises(CacheError, match=f"{file} is missing"):
        load_exported(tmp_path)
