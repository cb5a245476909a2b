import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import audonnx
import numpy as np
import onnx
import pytest
import torch
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2Model

from vbx.cache.feature import list_encoders
from vbx.cache.spec import EncoderSpec
from vbx.errors import AudioError, CheckpointError, DeviceError, UnknownName
from vbx.extract.checkpoints import find_checkpoint, weights_digest
from vbx.extract.encoder import load_encoder, resolve_spec

SPEC = EncoderSpec("onnx", "model.onnx")
AGE_GENDER = replace(list_encoders()["age-gender"], encoder="onnx", pooling=None, window_s=None, overlap_s=None)


class Graph(nn.Module):
    """What audEERING exported: normalisation, encoder, mean, two heads, all in the graph."""

    def __init__(self, model: nn.Module, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.model = model
        dim = model.config.hidden_size
        self.dense = nn.ModuleList(nn.Linear(dim, dim) for _ in sizes)
        self.out_proj = nn.ModuleList(nn.Linear(dim, size) for size in sizes)

    def forward(self, signal: torch.Tensor) -> tuple[torch.Tensor, ...]:
        mean = signal.mean(1, keepdim=True)
        variance = ((signal - mean) ** 2).mean(1, keepdim=True)
        states = self.model((signal - mean) / torch.sqrt(variance + 1e-7)).last_hidden_state
        hidden = states.mean(1)
        heads = zip(self.dense, self.out_proj, strict=True)
        return hidden, *(out(torch.tanh(dense(hidden))) for dense, out in heads)


def export(graph: nn.Module, folder: Path, outputs: list[str]) -> Path:
    """Export as the published files are: opset 14, one clip, any length."""
    folder.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.eval(),
            (torch.randn(1, 16000),),
            str(folder / "model.onnx"),
            input_names=["signal"],
            output_names=outputs,
            dynamic_axes={"signal": {1: "time"}},
            opset_version=14,
            dynamo=False,
        )
    return folder


def describe(folder: Path, text: str) -> Path:
    (folder / "model.yaml").write_text(text)
    return folder


EMOTION = (
    "$audonnx.core.model.Model==0.3.2:\n  path: model.onnx\n  labels:\n    logits:\n    - arousal\n    - dominance\n"
    "    - valence\n  transform: null\n"
)
"""The published description."""


def random_encoder() -> nn.Module:
    torch.manual_seed(3)
    config = Wav2Vec2Config(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        conv_dim=[32] * 7,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        conv_bias=True,
        attn_implementation="eager",
    )
    return Wav2Vec2Model(config).eval()


@pytest.fixture(scope="session")
def graph() -> Graph:
    return Graph(random_encoder(), (3,))


@pytest.fixture(scope="session")
def exported(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The emotion model as an ONNX release."""
    folder = export(graph, tmp_path_factory.mktemp("emotion"), ["hidden_states", "logits"])
    return describe(folder, EMOTION)


@pytest.fixture
def release(exported: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def graph_of(nodes: list[Any], inputs: list[Any], outputs: list[Any], folder: Path, **options: Any) -> Path:
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "test", inputs, outputs, **options),
        opset_imports=[onnx.helper.make_opsetid("", 14)],
        ir_version=8,
    )
    onnx.save(proto, folder / "model.onnx")
    return folder


def value(name: str, shape: list[Any], kind: int = onnx.TensorProto.FLOAT) -> Any:
    return onnx.helper.make_tensor_value_info(name, kind, shape)


# ---------------------------------------------------------------- vectors


def test_release_gives_what_the_checkpoint_gives(
    exported: Path, graph: Graph, tmp_path: Path, waves: list[np.ndarray]
) -> None:
    weights = {f"wav2vec2.{name}": tensor for name, tensor in graph.model.state_dict().items()}
    weights |= {f"classifier.dense.{k}": v for k, v in graph.dense[0].state_dict().items()}
    weights |= {f"classifier.out_proj.{k}": v for k, v in graph.out_proj[0].state_dict().items()}
    graph.model.config.id2label = {0: "arousal", 1: "dominance", 2: "valence"}
    graph.model.config.save_pretrained(tmp_path)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    spec = list_encoders()["w2v2-R-emotion"]
    by_torch = load_encoder(*find_checkpoint(spec, str(tmp_path)))
    onnx_spec, path = find_checkpoint(spec, str(exported))
    assert (onnx_spec.encoder, onnx_spec.pooling, onnx_spec.window_s) == ("onnx", None, None)
    by_onnx = load_encoder(onnx_spec, path)
    for name in ("hidden", "logits"):
        columns = [next(o.columns for o in e.outputs if o.name == name) for e in (by_torch, by_onnx)]
        assert columns[0] == columns[1]
    for wave in waves:
        theirs, ours = (e.encode([wave], ["hidden", "logits"])[0] for e in (by_torch, by_onnx))
        for name in ("hidden", "logits"):
            assert np.linalg.norm(theirs[name] - ours[name]) < 1e-5 * np.linalg.norm(theirs[name])
            assert ours[name].dtype == np.float32 and ours[name].ndim == 1


def test_vectors_are_those_of_audonnx(exported: Path, waves: list[np.ndarray]) -> None:
    reference = audonnx.load(str(exported))
    encoder = load_encoder(SPEC, exported)
    encoded = encoder.encode(waves, ["logits", "hidden"])
    for wave, ours in zip(waves, encoded, strict=True):
        theirs = reference(wave, 16000)
        assert list(ours) == ["logits", "hidden"]
        np.testing.assert_allclose(ours["hidden"], theirs["hidden_states"][0], rtol=0, atol=1e-5)
        np.testing.assert_allclose(ours["logits"], theirs["logits"][0], rtol=0, atol=1e-5)


def test_bare_file_is_a_model(exported: Path, tmp_path: Path, waves: list[np.ndarray]) -> None:
    bare = tmp_path / "some.onnx"
    bare.write_bytes((exported / "model.onnx").read_bytes())
    encoder = load_encoder(SPEC, bare)
    assert [output.columns[0] for output in encoder.outputs] == ["hidden_0000", "logits_0000"]
    a, b = (load_encoder(SPEC, path).encode(waves[:1], ["hidden"])[0]["hidden"] for path in (bare, exported))
    assert np.array_equal(a, b)


def test_one_clip_at_a_time_and_other_dtypes(exported: Path, waves: list[np.ndarray]) -> None:
    # audonnx would lay the two rows of a batch end to end, and refuse float64.
    encoder = load_encoder(SPEC, exported)
    assert encoder.batch_s == 0
    alone = encoder.encode([waves[4]], ["hidden"])[0]["hidden"]
    assert np.array_equal(encoder.encode([waves[5], waves[4]], ["hidden"])[1]["hidden"], alone)
    assert np.array_equal(encoder.encode([waves[4].astype(np.float64)], ["hidden"])[0]["hidden"], alone)


def test_clip_that_is_too_short_is_an_audio_error(exported: Path, waves: list[np.ndarray]) -> None:
    encoder = load_encoder(SPEC, exported)
    with pytest.raises(AudioError, match=r"0\.0249 s"):
        encoder.encode([waves[0][:399]], ["hidden"])
    assert np.isfinite(encoder.encode([waves[0]], ["hidden"])[0]["hidden"]).all()


def test_age_and_gender_release_has_the_names_of_the_checkpoint(tmp_path: Path, waves: list[np.ndarray]) -> None:
    graph = Graph(random_encoder(), (1, 3))
    folder = export(graph, tmp_path, ["hidden_states", "logits_age", "logits_gender"])
    describe(
        folder,
        "$audonnx.core.model.Model==1.0.0:\n  path: model.onnx\n  labels:\n    logits_age: [age]\n"
        "    logits_gender: [female, male, child]\n  transform: null\n",
    )
    encoder = load_encoder(AGE_GENDER, folder)
    assert [(o.name, len(o.columns)) for o in encoder.outputs] == [("hidden", 64), ("age", 1), ("gender", 3)]
    encoded = encoder.encode([waves[4]], ["age", "gender"])[0]
    with torch.no_grad():
        _, age, logits = graph(torch.from_numpy(waves[4])[None])
    assert encoded["age"] == pytest.approx(age[0].numpy(), abs=1e-5)
    assert encoded["gender"] == pytest.approx(logits[0].softmax(-1).numpy(), abs=1e-5)
    # The same file as `onnx:PATH` keeps the logits, under a name that says so.
    plain = load_encoder(SPEC, folder)
    assert [output.name for output in plain.outputs] == ["hidden", "age", "logits_gender"]
    assert plain.encode([waves[4]], ["logits_gender"])[0]["logits_gender"] == pytest.approx(logits[0].numpy(), abs=1e-5)


def test_frames_are_told_from_vectors_though_the_graph_names_no_sizes(tmp_path: Path) -> None:
    class Frames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 6, 400, 320)

        def forward(self, signal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            frames = self.conv(signal[:, None]).transpose(1, 2)
            return frames, frames.mean((1, 2), keepdim=False)[None]

    model = Frames()
    encoder = load_encoder(SPEC, export(model, tmp_path, ["frames", "level"]))
    frames, level = encoder.outputs
    assert (frames.name, frames.frames, frames.optional, frames.dtype) == ("frames", True, True, "float16")
    assert frames.columns == tuple(f"frames_{i:04d}" for i in range(6))
    assert (level.columns, level.frames, level.optional) == (("level",), False, False)
    wave = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    encoded = encoder.encode([wave], ["frames", "level"])[0]
    with torch.no_grad():
        reference = model(torch.from_numpy(wave)[None])
    assert encoded["frames"].shape == (12, 6) and encoded["level"].shape == (1,)
    np.testing.assert_allclose(encoded["frames"], reference[0][0], atol=1e-5)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$os.system:\n  command: touch harm\n", r"asks for '\$os\.system'"),
        ("$audonnx.core.model.Modeller:\n  path: model.onnx\n", "asks for"),
        ("!!python/object/apply:os.system ['touch harm']\n", "is not YAML"),
        (EMOTION.replace("null", "{$os.system: {command: touch harm}}"), r"'\$os\.system'.*run code"),
        (
            EMOTION.replace("null", "{signal: {$audonnx.core.function.Function: {func: 'lambda x, sr: x'}}}"),
            "run code named in a model file",
        ),
        (EMOTION.replace("path: model.onnx", "path: ../model.onnx"), "outside its folder"),
        (EMOTION.replace("path: model.onnx", "path: /etc/model.onnx"), "outside its folder"),
        (EMOTION.replace("path: model.onnx", "path: 'C:/model.onnx'"), "outside its folder"),
        (EMOTION.replace("path: model.onnx", "path: other.onnx"), "no such file beside it"),
        (EMOTION.replace("  path: model.onnx\n", ""), "outside its folder"),
        (EMOTION.replace("    - valence\n", ""), "2 labels to the 3 columns of 'logits'"),
        (EMOTION.replace("logits:\n", "logits: 3\n").replace("    - arousal\n", ""), "is not YAML"),
        ("$audonnx.core.model.Model:\n  path: model.onnx\n  labels: {logits: three}\n", "not a list of names"),
        ("$audonnx.core.model.Model:\n", "asks for"),
        ("path: model.onnx\nlabels: null\n", "does not describe one audonnx model"),
        ("just text\n", "does not describe one audonnx model"),
        ("a: [unclosed\n", "is not YAML"),
    ],
)
def test_description_is_plain_data_and_never_makes_an_object(
    text: str, message: str, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(release)
    describe(release, text)
    with pytest.raises(CheckpointError, match=message):
        load_encoder(SPEC, release)
    assert not (release / "harm").exists()


def test_empty_transforms_are_none(release: Path) -> None:
    describe(release, EMOTION.replace("null", "{signal: null}"))
    assert len(load_encoder(SPEC, release).outputs) == 2


@pytest.mark.parametrize(
    ("inputs", "seen"),
    [
        ([("a", [1, "time"]), ("b", [1, "time"])], "tensor.float. of shape"),
        ([("a", [18, "time"])], r"\[18, -1\]"),
        ([("a", ["batch", "time"])], r"\[-1, -1\]"),
        ([("a", [1, 16000])], r"\[1, 16000\]"),
    ],
)
def test_model_that_takes_no_waveform(inputs: list[tuple[str, list[Any]]], seen: str, tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Identity", [name], [f"out_{name}"]) for name, _ in inputs]
    graph_of(nodes, [value(*i) for i in inputs], [value(f"out_{n}", s) for n, s in inputs], tmp_path)
    with pytest.raises(CheckpointError, match=seen):
        load_encoder(SPEC, tmp_path)


def test_output_of_another_shape(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Identity", ["signal"], ["out"])
    graph_of([node], [value("signal", [1, "time"])], [value("out", [1, "time"])], tmp_path)
    with pytest.raises(CheckpointError, match=r"output 'out' .* shape \(1, 16000\)"):
        load_encoder(SPEC, tmp_path)


def test_model_that_fails_on_every_clip(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Reshape", ["signal", "shape"], ["out"])
    shape = onnx.numpy_helper.from_array(np.array([7, 11], np.int64), "shape")
    graph_of([node], [value("signal", [1, "t"])], [value("out", [7, 11])], tmp_path, initializer=[shape])
    with pytest.raises(CheckpointError, match="does not run"):
        load_encoder(SPEC, tmp_path)


@pytest.mark.parametrize("content", [b"", b"no model", bytes(range(256))])
def test_damaged_model(content: bytes, release: Path) -> None:
    (release / "model.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.onnx"):
        load_encoder(SPEC, release)
    if content:  # no byte at all is an empty message to protobuf, and a digest like any other
        with pytest.raises(CheckpointError, match="not an ONNX model"):
            weights_digest(release)


def test_device_that_onnxruntime_has_not_is_an_error_and_no_silent_cpu(exported: Path) -> None:
    if "CUDAExecutionProvider" in __import__("onnxruntime").get_available_providers():
        pytest.skip("onnxruntime has CUDA here")
    with pytest.raises(DeviceError, match="'cuda'.*CPUExecutionProvider"):
        load_encoder(SPEC, exported, "cuda")


def test_memory_that_runs_out(exported: Path, waves: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder(SPEC, exported)
    state = __import__("onnxruntime").capi.onnxruntime_pybind11_state

    def full(*args: Any) -> Any:
        raise state.RuntimeException("BFCArena: Failed to allocate memory for requested buffer")

    monkeypatch.setattr(encoder, "_run", full)
    with pytest.raises(MemoryError, match="allocate memory"):
        encoder.encode(waves[:1], ["hidden"])


def test_precision_and_missing_model(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="precision 'int8'"):
        load_encoder(replace(SPEC, precision="int8"), exported)
    for use in (load_encoder, resolve_spec):
        with pytest.raises(CheckpointError, match="no ONNX model"):
            use(SPEC, tmp_path)
        with pytest.raises(CheckpointError, match="no ONNX model"):
            use(SPEC, None)


# ---------------------------------------------------------------- digest


def test_digest_covers_external_tensors(release: Path) -> None:
    before = weights_digest(release)
    proto = onnx.load(release / "model.onnx")
    onnx.save_model(proto, release / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    outside = weights_digest(release)
    assert outside != before and len(load_encoder(SPEC, release).outputs) == 2
    content = bytearray((release / "w.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (release / "w.bin").write_bytes(content)
    assert weights_digest(release) != outside
    (release / "w.bin").unlink()
    with pytest.raises(CheckpointError, match=r"names 'w\.bin', and there is no such file"):
        weights_digest(release)


def test_external_tensor_outside_the_folder_is_refused(release: Path) -> None:
    proto = onnx.load(release / "model.onnx")
    onnx.save_model(proto, release / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    proto = onnx.load(release / "model.onnx", load_external_data=False)
    (release.parent / "w.bin").write_bytes((release / "w.bin").read_bytes())
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../w.bin"
    (release / "model.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(CheckpointError, match="outside its folder"):
        weights_digest(release)


# ---------------------------------------------------------------- published weights


@pytest.mark.weights
def test_golden_values_of_the_emotion_release() -> None:
    # README of audeering/w2v2-how-to.
    folder = Path(os.environ.get("VBX_TEST_WEIGHTS", ""), "w2v2-L-robust-12.6bc4a7fd-1.1.0")
    if not folder.is_dir():
        pytest.skip(f"VBX_TEST_WEIGHTS has no folder {folder.name!r}")
    np.random.seed(0)
    encoded = load_encoder(*find_checkpoint(list_encoders()["w2v2-R-emotion"], str(folder))).encode(
        [np.random.normal(size=16000).astype(np.float32)], ["hidden", "logits"]
    )[0]
    assert encoded["logits"] == pytest.approx([0.6563389, 0.630771, 0.4762332], abs=1e-4)
    assert encoded["hidden"][:3] == pytest.approx([-0.00723587, 0.00645568, -0.00865646], abs=1e-5)
    assert encoded["hidden"][-3:] == pytest.approx([0.00670633, 0.00948439, 0.0028789], abs=1e-5)


@pytest.mark.weights
def test_the_emotion_release_brings_waveforms_to_one_level_by_itself(waves: list[np.ndarray]) -> None:
    # Whether it does decides whether the ONNX release and the checkpoint give one feature; both golden inputs are
    # normal already and cannot tell.
    folder = Path(os.environ.get("VBX_TEST_WEIGHTS", ""), "w2v2-L-robust-12.6bc4a7fd-1.1.0")
    if not folder.is_dir():
        pytest.skip(f"VBX_TEST_WEIGHTS has no folder {folder.name!r}")
    encoder = load_encoder(*find_checkpoint(list_encoders()["w2v2-R-emotion"], str(folder)))
    plain, *others = (
        encoded["hidden"]
        for wave in (waves[4], 10 * waves[4], waves[4] + 0.1)
        for encoded in encoder.encode([wave.astype(np.float32)], ["hidden"])
    )
    for other in others:
        assert other == pytest.approx(plain, abs=1e-4)


@pytest.mark.weights
def test_golden_values_of_the_age_and_gender_release() -> None:
    # README of audeering/w2v2-age-gender-how-to, the model of 6 layers; it shows logits.
    folder = Path(os.environ.get("VBX_TEST_WEIGHTS", ""), "w2v2-L-robust-6-age-gender.25c844af-1.1.1")
    if not folder.is_dir():
        pytest.skip(f"VBX_TEST_WEIGHTS has no folder {folder.name!r}")
    np.random.seed(0)
    encoded = load_encoder(*find_checkpoint(list_encoders()["age-gender-6"], str(folder))).encode(
        [np.random.normal(size=16000).astype(np.float32)], ["age", "gender"]
    )[0]
    logits = torch.tensor([0.32810774, -0.56528044, 0.0317882])
    assert encoded["age"] == pytest.approx([0.3961048], abs=1e-4)
    assert encoded["gender"] == pytest.approx(logits.softmax(-1).numpy(), abs=1e-4)
