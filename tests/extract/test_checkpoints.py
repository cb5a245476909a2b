import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from vbx.cache.feature import list_encoders
from vbx.cache.spec import EncoderSpec
from vbx.errors import CheckpointError
from vbx.extract import hub
from vbx.extract.checkpoints import find_checkpoint, weights_digest

SPEC = list_encoders()["w2v2-R-emotion"]
PREPROCESSOR = '{"do_normalize": true}'


def make_checkpoint(folder: Path, weights: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "wav2vec2"}')
    (folder / "preprocessor_config.json").write_text(PREPROCESSOR)
    save_file({"weight": np.arange(6, dtype=np.float32)}, folder / weights)
    return folder


def make_onnx(folder: Path, name: str = "model") -> Path:
    import onnx

    folder.mkdir(parents=True, exist_ok=True)
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, "t"]) for n in ("signal", "out")]
    node = onnx.helper.make_node("Identity", ["signal"], ["out"])
    onnx.save(
        onnx.helper.make_model(onnx.helper.make_graph([node], "g", *[[e] for e in ends])), folder / f"{name}.onnx"
    )
    return folder


def describe(folder: Path, name: str = "model") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(f"$audonnx.core.model.Model==1.0.0:\n  path: {name}.onnx\n")
    return path


# ---------------------------------------------------------------- paths


def test_folder_of_weights(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "w")
    assert find_checkpoint(SPEC, str(folder)) == (SPEC, folder)


@pytest.mark.parametrize("described", [False, True])
def test_onnx_release_serves_the_same_feature(described: bool, tmp_path: Path) -> None:
    folder = make_onnx(tmp_path / "w")
    main = describe(folder) if described else folder / "model.onnx"
    for where in (folder, folder / "model.onnx"):
        spec, path = find_checkpoint(SPEC, str(where))
        assert path == main
        assert spec == replace(SPEC, encoder="onnx", pooling=None, window_s=None, overlap_s=None)
        assert spec.model == SPEC.model


def test_single_onnx_file_of_any_name(tmp_path: Path) -> None:
    folder = make_onnx(tmp_path / "w", "age")
    assert find_checkpoint(SPEC, str(folder))[1] == folder / "age.onnx"
    make_onnx(folder, "gender")
    with pytest.raises(CheckpointError, match=r"several ONNX models \(age\.onnx, gender\.onnx\)"):
        find_checkpoint(SPEC, str(folder))
    assert find_checkpoint(SPEC, str(folder / "gender.onnx"))[1] == folder / "gender.onnx"


def test_folder_with_both_kinds_gives_each_encoder_its_own(tmp_path: Path) -> None:
    folder = make_onnx(make_checkpoint(tmp_path / "w"))
    by_torch, by_onnx = find_checkpoint(SPEC, str(folder)), find_checkpoint(EncoderSpec("onnx", "w"), str(folder))
    assert (by_torch[0].encoder, by_torch[1]) == ("wav2vec2", folder)
    assert (by_onnx[0].encoder, by_onnx[1]) == ("onnx", folder / "model.onnx")
    assert weights_digest(by_torch[1]) != weights_digest(by_onnx[1])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no config.json"),
        (["config.json"], "neither model.safetensors nor pytorch_model.bin"),
        (["config.json", "tf_model.h5", "model.pt"], "neither model.safetensors nor pytorch_model.bin"),
        (["model.safetensors"], "no config.json"),
    ],
)
def test_folder_that_is_no_checkpoint(files: list[str], message: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match=message):
        find_checkpoint(SPEC, str(tmp_path))


def test_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="name the folder"):
        find_checkpoint(SPEC, str(folder / "model.safetensors"))
    with pytest.raises(CheckpointError, match="no ONNX model"):
        find_checkpoint(EncoderSpec("onnx", "w"), str(folder))


@pytest.mark.parametrize("where", ["/no/such/folder", "./none", "~/none", "a/b/c", "model.onnx", "x/model.yaml"])
def test_path_that_is_not_there_is_not_looked_for_on_the_hub(where: str, no_hub: None) -> None:
    with pytest.raises(CheckpointError, match="no such folder or file"):
        find_checkpoint(SPEC, where)


def test_revision_of_a_folder_is_an_error(tmp_path: Path, no_hub: None) -> None:
    folder = make_checkpoint(tmp_path / "w")
    with pytest.raises(CheckpointError, match="has no revisions; leave out '@v2'"):
        find_checkpoint(SPEC, f"{folder}@v2")
    named = make_checkpoint(tmp_path / "w@v3")  # a folder may well have an @ in its name
    assert find_checkpoint(SPEC, str(named))[1] == named


def test_onnx_feature_without_a_path(no_hub: None) -> None:
    with pytest.raises(CheckpointError, match=r"'m\.onnx' is a file; say where"):
        find_checkpoint(EncoderSpec("onnx", "m.onnx"), None)


def test_plugin_out_of_the_tree_gets_its_path_as_it_is(tmp_path: Path) -> None:
    spec = EncoderSpec("mylab.net", "net")
    assert find_checkpoint(spec, str(tmp_path)) == (spec, tmp_path)


def test_shards_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "w", weights="../stolen.safetensors")
    index = folder / "model.safetensors.index.json"
    for name, message in (("../stolen.safetensors", "outside its folder"), ("gone.safetensors", "no such file")):
        index.write_text(json.dumps({"weight_map": {"weight": name}}))
        with pytest.raises(CheckpointError, match=message):
            find_checkpoint(SPEC, str(folder))
    for content in ('{"weight_map": {}}', "[]", "{"):
        index.write_text(content)
        with pytest.raises(CheckpointError, match=r"index\.json"):
            find_checkpoint(SPEC, str(folder))


# ---------------------------------------------------------------- digest


def test_digest_is_of_content_and_not_of_place(tmp_path: Path) -> None:
    one, other = make_checkpoint(tmp_path / "a"), make_checkpoint(tmp_path / "deep" / "b")
    (other / "README.md").write_text("other files say nothing")
    assert weights_digest(one) == weights_digest(other)
    linked = tmp_path / "linked"  # the hub's cache is made of links
    linked.mkdir()
    for path in one.iterdir():
        (linked / path.name).symlink_to(path)
    assert weights_digest(linked) == weights_digest(one)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_digest_changes_with_each_file(name: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    before = weights_digest(folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content.replace(content[-2:-1], b" ", 1))
    assert weights_digest(folder) != before
    (folder / name).write_bytes(content)
    assert weights_digest(folder) == before
    if name == "preprocessor_config.json":
        (folder / name).unlink()
        assert weights_digest(folder) != before


def test_digest_of_onnx_is_the_same_for_folder_and_file(tmp_path: Path) -> None:
    folder = make_onnx(tmp_path)
    bare = weights_digest(folder)
    describe(folder)
    described = {weights_digest(p) for p in (folder, folder / "model.onnx", folder / "model.yaml")}
    assert len(described) == 1 and bare not in described


# ---------------------------------------------------------------- the hub


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks the hub has failed."""

    def asked(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(hub, "HfApi", asked)
