"""Corpora and checkpoints that come from somebody else, and mean no good: one sentence, and nothing is run or lost."""

import json
import os
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from transformers import Wav2Vec2Config, Wav2Vec2Model

from vbx.cache.spec import EncoderSpec
from vbx.cache.store import Store
from vbx.errors import CheckpointError, CorpusError
from vbx.extract.checkpoints import find_checkpoint
from vbx.extract.contents import digest_file
from vbx.extract.corpus import MOST_COLUMNS, read_corpus
from vbx.extract.encoder import load_encoder
from vbx.extract.encoders import _speech_models
from vbx.extract.onnx_files import find_onnx
from vbx.extract.pipeline import extract_vectors
from vbx.extract.readers import _files
from vbx.extract.weights import SIZES

SPEC = EncoderSpec("wav2vec2", "org/name", pooling="mean", window_s=30.0, overlap_s=2.0)


def sentence(error: pytest.ExceptionInfo[Any]) -> str:
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000
    return str(error.value)


def sound(path: Path, seed: int = 0) -> None:
    aside = path.parent / "aside.wav"  # some names are none for libsndfile
    soundfile.write(aside, 0.1 * np.random.default_rng(seed).standard_normal(2000), 16000)
    aside.rename(path)


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("labels.csv", b"file,x\na\0.wav,1\n", ["line 2", "zero byte"]),
        ("labels.csv", "file,x\na.wav,1\n".encode("utf-16-le"), ["line 1", "zero byte", "iconv -f utf-16le"]),
        ("labels.csv", "file,x\na.wav,ä\n".encode("utf-16"), ["UTF-16", "iconv -f utf-16"]),
        ("labels.csv", "file,x\na.wav,1\n".encode("utf-16-be"), ["line 1"]),
        ("labels.csv", "file,x\na.wav,ä\n".encode("utf-32"), ["UTF-32", "iconv -f utf-32"]),
        ("labels.csv", "file,x\na.wav,ä\n".encode("cp1252"), ["line 2", "0xe4"]),
        ("labels.csv", b"file,x\na.wav," + b"y" * 140_000, ["line 2", "field limit"]),
        ("labels.jsonl", b'{"file": "a\\u0000.wav"}', ["'a\\x00.wav'"]),
        ("labels.jsonl", b'{"file": "a.wav"}\n{"file": "b.wav", "x": "\\ud800"}', ["line 2", "surrogates"]),
        ("labels.jsonl", b'{"file": "a.wav", "\\udfff": "x"}', ["line 1", "surrogates"]),
        ("labels.jsonl", b'{"file": "a.wav", "x": 1' + b"0" * 5000 + b"}", ["line 1", "digits"]),
        ("labels.jsonl", b'{"file": "a.wav", "x": ' + b"[" * 100_000, ["line 1", "recursion"]),
        ("labels.jsonl", b'{"file": "a.wav", "x": 1, "x": 2}', ["line 1", "'x' twice"]),
        ("labels.jsonl", b"", ["it has none"]),
        ("labels.parquet", b"", ["labels.parquet"]),
    ],
)
def test_text_that_is_none(name: str, content: bytes, words: list[str], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError) as caught:
        read_corpus(tmp_path)
    assert all(word in sentence(caught) for word in words), str(caught.value)


def wide(path: Path, count: int) -> None:
    names = [f"c{i}" for i in range(count - 1)]
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"file": ["a.wav"], **{name: [1] for name in names}}), path)
    elif path.suffix == ".jsonl":
        path.write_text(json.dumps({"file": "a.wav", **dict.fromkeys(names, 1)}))
    else:
        path.write_text(",".join(["file", *names]) + "\n" + ",".join(["a.wav", *["1"] * len(names)]))


@pytest.mark.parametrize(("name", "count"), [("l.csv", 100_000), ("l.jsonl", 100_000), ("l.parquet", 17_000)])
def test_a_hundred_thousand_columns(name: str, count: int, tmp_path: Path) -> None:
    wide(tmp_path / name, count)
    with pytest.raises(CorpusError) as caught:
        read_corpus(tmp_path / name)
    assert f"has {count:,} columns" in sentence(caught) and f"up to {MOST_COLUMNS:,}" in str(caught.value)


def test_columns_that_json_lines_add_one_by_one(tmp_path: Path) -> None:
    rows = (json.dumps({"file": f"{i}.wav", f"c{i}": 1}) for i in range(MOST_COLUMNS + 5))
    (tmp_path / "labels.jsonl").write_text("\n".join(rows))
    with pytest.raises(CorpusError, match="has 16,385 columns"):
        read_corpus(tmp_path)


def test_more_cells_than_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A Parquet file of some kilobytes can hold a billion rows.
    monkeypatch.setattr(_files, "MOST_CELLS", 99_999)
    pq.write_table(pa.table({"file": pa.nulls(50_000), "x": pa.nulls(50_000)}), tmp_path / "labels.parquet")
    assert (tmp_path / "labels.parquet").stat().st_size < 10_000
    (tmp_path / "l.csv").write_text("file,x\n" + "a.wav,1\n" * 50_000)
    for path in (tmp_path, tmp_path / "l.csv"):
        with pytest.raises(CorpusError, match="50,000 rows of 2 columns"):
            read_corpus(path)


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl"])
@pytest.mark.parametrize("before", [b"", b"file,x\na.wav,1\n"])
def test_a_line_without_end(name: str, before: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes((before if name.endswith("csv") else b"\n\n" * bool(before)) + b" " * (20 << 20))
    with pytest.raises(CorpusError, match=f"line {3 if before else 1} of .* has 20,971,520 characters"):
        read_corpus(tmp_path)


@pytest.mark.slow
def test_two_hundred_megabytes_in_one_line_take_no_more_than_some_copies(tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "labels.csv").write_bytes(b"file,x\n" + b"a," * 100_000_000)
    code = (
        "import resource, sys; from vbx.extract.corpus import read_corpus\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_corpus(sys.argv[1])\n"
        "except ValueError as error: print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    told, grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "has 200,000,000 characters" in told and int(grown) < 1000, (told, grown)


def test_a_label_file_too_large_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "MOST_BYTES", 10)
    (tmp_path / "labels.csv").write_text("file\na.wav\n")
    with pytest.raises(CorpusError, match="has 11 bytes"):
        read_corpus(tmp_path)


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").write_text('{"file": "ä.wav"}\n', encoding="utf-8-sig")
    assert read_corpus(tmp_path).utterances[0].id == "ä.wav"


# ---------------------------------------------------------------- links, pipes and names


def test_links_that_a_table_names_are_told(tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    (root / "in").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    for place in (root / "in/a.wav", tmp_path / "out/b.wav", tmp_path / "out/c.wav"):
        sound(place)
    (root / "away").symlink_to(tmp_path / "out")
    (root / "in/one.wav").symlink_to("../../out/c.wav")
    (root / "in/near.wav").symlink_to("a.wav")
    (root / "in/loop.wav").symlink_to("loop.wav")
    (root / "in/up").symlink_to("..")
    files = ["in/a.wav", "in/near.wav", "in/up/in/up/in/a.wav", "away/b.wav", "in/one.wav", "in/loop.wav"]
    (root / "labels.csv").write_text("\n".join(["file", *files]))
    corpus = read_corpus(root)
    assert [u.id for u in corpus.utterances] == files
    assert (
        "2 files are reached through links out of the corpus" in corpus.notes[-1] and "away/b.wav" in corpus.notes[-1]
    )
    assert digest_file(root / "in/loop.wav").digest is None


def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "link.wav").symlink_to("pipe.wav")
    (tmp_path / "zero.wav").symlink_to("/dev/zero")
    sound(tmp_path / "a.wav")
    corpus = read_corpus(tmp_path)
    assert [u.id for u in corpus.utterances] == ["a.wav"]
    assert corpus.notes[-1] == "left out: 1 files that are no audio, 2 links to folders or out of the corpus"
    for name in ("pipe.wav", "link.wav", "zero.wav"):
        assert digest_file(tmp_path / name).problem == "is no file but a pipe or a device"


def test_a_link_that_leads_to_itself_is_no_corpus(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(CorpusError, match="no such folder"):
        read_corpus(tmp_path / "loop")
    with pytest.raises(CorpusError, match="no such folder") as caught:
        read_corpus("x" * 5000)
    sentence(caught)


def test_folders_deeper_than_a_path_is_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(45):
        os.mkdir("x" * 100)
        os.chdir("x" * 100)
    with pytest.raises(CorpusError, match="cannot be read: File name too long") as caught:
        read_corpus(tmp_path)
    sentence(caught)


def test_a_corpus_whose_own_name_is_not_utf8(tmp_path: Path) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe4"))
    root.mkdir()
    (root / "a.wav").touch()
    with pytest.raises(CorpusError, match="is not UTF-8"):
        read_corpus(root)


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".hidden", " ", "a\nb", "a\\b", "x" * 201, "ü" * 101])
def test_names_that_would_leave_the_cache(name: str, tmp_path: Path) -> None:
    sound(tmp_path / "a.wav")
    with pytest.raises(CorpusError, match="cannot be the name of a corpus.*--name"):
        read_corpus(tmp_path, name=name)


def test_odd_names_of_files_and_columns_go_through_the_cache(tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    root.mkdir()
    names = ["a\nb.wav", "c\x1b[31m.wav", 'd,"e.wav', "f#1.000-2.000.wav", "ü.wav", "-h.wav", "x" * 200 + ".wav"]
    for seed, name in enumerate(names):
        sound(root / name, seed)
    labels = {"id": "7", "row": "8", "": "blank", "content": "x", "index": "i", "a\nb": "c", "y" * 3000: "long"}
    rows = [{"file": name, **labels} for name in [*names, "z" * 5000 + ".wav"]]
    (root / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    corpus, store = read_corpus(root), Store(tmp_path / "cache")
    (counts,) = extract_vectors(corpus, ["noise"], store).to_json()["features"]
    assert (counts["extracted"], counts["failed"]) == (len(names), 1)
    table = store.label_table("corpus")
    assert table.ids == tuple(u.id for u in corpus.utterances) and table.ids[:7] == tuple(names)
    kept = table.labels.iloc[0].drop("split").to_dict()
    assert kept == {"id_": 7.0, "row_": 8.0, "column_3": "blank", **{k: v for k, v in labels.items() if k in kept}}
    assert len(kept) == 7 and "label column 'id' is called 'id_'" in corpus.notes


# ---------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very small model."""
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    shape = {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    torch.manual_seed(0)
    config = Wav2Vec2Config(**small, **shape, feat_extract_norm="layer", do_stable_layer_norm=True)
    folder = tmp_path_factory.mktemp("saved")
    Wav2Vec2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def rewrite(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def test_code_that_a_config_names_is_never_run(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wave = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    before = load_encoder(SPEC, checkpoint).encode([wave], ["hidden"])[0]["hidden"]
    (checkpoint / "evil.py").write_text("import pathlib; pathlib.Path(__file__).with_name('harm').touch()\n")
    code = {name: "evil.Evil" for name in ("AutoConfig", "AutoModel", "AutoFeatureExtractor")}
    rewrite(
        checkpoint, auto_map=code, trust_remote_code=True, architectures=["evil.Evil"], custom_pipelines={"e": code}
    )
    rewrite(checkpoint, _attn_implementation="org/kernel", attn_implementation="org/kernel", quantization_config=code)
    rewrite(checkpoint, torch_dtype="evil", dtype="evil", id2label="evil", num_labels=10**9, _name_or_path="org/evil")
    (checkpoint / "preprocessor_config.json").write_text(json.dumps({"auto_map": code, "do_normalize": True}))
    monkeypatch.chdir(checkpoint)
    monkeypatch.syspath_prepend(checkpoint)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    after = load_encoder(*find_checkpoint(SPEC, str(checkpoint))).encode([wave], ["hidden"])[0]["hidden"]
    assert np.array_equal(before, after)
    assert not (checkpoint / "harm").exists() and "evil" not in sys.modules


@pytest.mark.parametrize("size", [10**9, 10**30, 0, -1, 1.5, True, "1024", None])
@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "conv_kernel"])
def test_sizes_that_no_model_has(name: str, size: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was laid out")

    monkeypatch.setattr(_speech_models, "_empty_model", reached)
    rewrite(checkpoint, **{name: [size] * 7 if name == "conv_kernel" else size})
    for use in (lambda: find_checkpoint(SPEC, str(checkpoint)), lambda: load_encoder(SPEC, checkpoint)):
        with pytest.raises(CheckpointError, match=rf"has {name} .*from 1 to {SIZES[name]:,}") as caught:
            use()
        sentence(caught)


def test_sizes_of_the_largest_published_models_are_believed(checkpoint: Path) -> None:
    rewrite(checkpoint, hidden_size=1920, num_hidden_layers=48, intermediate_size=7680, num_buckets=320)  # XLS-R 2B
    find_checkpoint(SPEC, str(checkpoint))


@pytest.mark.parametrize("values", [{"sampling_rate": "fast"}, {"sampling_rate": 10**9}, {"do_normalize": "no"}])
def test_a_preprocessor_that_says_nonsense(values: dict[str, Any], checkpoint: Path) -> None:
    (checkpoint / "preprocessor_config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="preprocessor_config.json"):
        load_encoder(SPEC, checkpoint)


def tensors(header: dict[str, Any], size: int = 64) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


def tensor(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63 - 1) + b"{}",
        struct.pack("<Q", 2**40) + b"{}",
        struct.pack("<Q", 3) + b"[1]",
        tensors({"w": tensor([2**40], 0, 2**42)}),
        tensors({"w": tensor([2**62, 2**62, 4], 0, 64)}),
        tensors({"w": tensor([16], 0, 2**64 - 1)}),
        tensors({"w": tensor([16], 64, 0)}),
        tensors({"w": tensor([-16], 0, 64)}),
        tensors({"w": tensor([8], 0, 64)}),
        tensors({"w": tensor([16], 0, 64), "v": tensor([16], 0, 64)}),
        tensors({"w": tensor([16], 0, 64, "O")}),
        tensors({"w": tensor([1e30], 0, 64)}),
        tensors({"w": "everything"}),
    ],
)
def test_safetensors_that_lie(content: bytes, checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="model.safetensors") as caught:
        _speech_models.read_tensors(checkpoint)
    sentence(caught)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_with_bytes_changed_are_read_or_refused(legacy: bool, checkpoint: Path) -> None:
    path = checkpoint / "pytorch_model.bin"
    torch.save({"weight": torch.zeros(40), "bias": torch.ones(3)}, path, _use_new_zipfile_serialization=not legacy)
    (checkpoint / "model.safetensors").unlink()
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(300):
        content = bytearray(whole)
        for place in rng.integers(0, len(content), rng.integers(1, 6)):
            content[place] = rng.integers(0, 256)
        path.write_bytes(content)
        try:
            _speech_models.read_tensors(checkpoint)
        except CheckpointError:
            refused += 1
    assert 100 < refused < 300


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "a: " + "{a: " * 5000,
        "$audonnx.core.model.Model:\n  path: 2001-99-99\n",
        "$audonnx.core.model.Model:\n  path: " + "1" * 5000,
        f"$audonnx.core.model.Model:\n  path: {'a' * 5000}\n",
        "$audonnx.core.model.Model:\n  path: model.onnx\n  <<: [1]\n",
        "$audonnx.core.model.Model: !!python/object/new:os.system [touch harm]\n",
        "!!python/module:os {}\n",
        "$audonnx.core.model.Model: &a\n  path: model.onnx\n  labels: *a\n",
    ],
)
def test_descriptions_that_are_no_plain_data(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").touch()
    (tmp_path / "model.yaml").write_text(text)
    with pytest.raises(CheckpointError, match="model.yaml") as caught:
        find_onnx(tmp_path)
    sentence(caught)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": 1' + "0" * 5000 + "}", "\ufeff{}", "", "null"])
def test_json_that_is_none(name: str, content: str, checkpoint: Path) -> None:
    (checkpoint / name).write_text(content)
    if name.endswith("index.json"):
        (checkpoint / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=name) as caught:
        load_encoder(SPEC, checkpoint)
    sentence(caught)


def test_a_name_too_long_for_a_path_is_no_checkpoint() -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        find_checkpoint(SPEC, "/" + "x" * 5000)
