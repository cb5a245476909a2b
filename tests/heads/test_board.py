"""Results on disk: what is appended is there, whole, whoever is killed; what is damaged is named."""

import json
import os
import signal
from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

import vbx
from vbx.cache.vectors import Vectors
from vbx.errors import CacheError, UnknownName
from vbx.heads.board import SCHEMA, append_results, compact, load_head, pending, read_results
from vbx.heads.head import apply_head
from vbx.heads.predict import predict
from vbx.heads.ranking import rank_results
from vbx.heads.results import folder
from vbx.heads.training import train_heads

SCORES = {("dev", "score", "hmean"): 0.5, ("test", "score", "hmean"): 0.4, ("dev", "age", "mae"): 3.0}


@pytest.fixture
def add(tmp_path, vectors, make_run, make_result):
    """Append one part with runs of these seeds to OUT; returns its results."""

    def append(*seeds, scores=SCORES, **more):
        results = [make_result(make_run(seed), scores, **more) for seed in seeds]
        append_results(tmp_path, results, vectors, device="cpu")
        return results

    return append


def names(out):
    return sorted(path.name for path in out.iterdir() if path.name != ".lock")


def in_child(work):
    """Do something in a process of its own; returns its exit status, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at(monkeypatch, step, work):
    """Do something in a process that is killed just before it renames or deletes for the `step`-th time."""
    steps = iter(range(1000))

    def kill_then(do):
        def wrapped(*args, **kwargs):
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return do(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(folder.os, "replace", kill_then(os.replace))
        patch.setattr(folder.Path, "unlink", kill_then(folder.Path.unlink))
        return in_child(work)


def test_a_row_says_where_it_comes_from(tmp_path, add, vectors, make_run):
    (result,) = add(7, notes=("no dev",))
    frame = read_results(tmp_path)
    assert list(frame.columns) == SCHEMA.names and len(frame) == len(SCORES)
    row = frame.iloc[0]
    assert row["key"] == result.run.key_on(vectors) and row["vectors_key"] == vectors.fingerprint
    assert row["feature_key"] == vectors.key and row["missing"] == 2
    assert (row["corpus"], row["feature"], row["recipe"], row["seed"]) == ("c6", "toy", "toy", 7)
    assert (row["vbx"], row["torch"], row["device"]) == (vbx.__version__, torch.__version__, "cpu")
    assert (row["epochs"], row["best_epoch"], row["seconds"], row["n"]) == (3, 2, 0.5, 6)
    assert datetime.fromisoformat(row["time"]).utcoffset().total_seconds() == 0
    assert json.loads(row["notes"]) == ["no dev"]
    settings = json.loads(row["settings"])
    assert settings["fit"]["lr"] == 1e-3 and not settings.keys() & {"seed", "feature", "corpus", "recipe"}
    values = frame.set_index(["split", "task", "metric"])["value"].to_dict()
    assert values == SCORES


def test_curves_come_back_once_a_run(tmp_path, vectors, make_run, make_result):
    append_results(tmp_path, [make_result(make_run(), SCORES, curve=(0.5, 0.25))], vectors)
    curves = read_results(tmp_path)["curve"].tolist()
    assert curves[0].tolist() == [0.5, 0.25] and set(curves[1:]) == {None}


def test_results_without_curves_are_read_and_merged(tmp_path, vectors, make_run, make_result):
    """As versions before curves wrote them."""
    for seed in range(1, 12):
        append_results(tmp_path, [make_result(make_run(seed), SCORES, curve=(0.5,))], vectors)
    old = sorted(tmp_path.glob("runs-*.parquet"))[:6]
    for part in old:
        pq.write_table(pq.read_table(part).drop_columns("curve"), part, write_page_checksum=True)
    before = read_results(tmp_path)
    assert before["curve"].notna().sum() == 5 and before["key"].nunique() == 11
    compact(tmp_path)
    assert len(list(tmp_path.glob("runs-*.parquet"))) == 1
    pd.testing.assert_frame_equal(
        *(f.sort_values(["key", "metric", "split"], ignore_index=True) for f in (before, read_results(tmp_path)))
    )


def test_replicates_come_back(tmp_path, vectors, make_run, make_result):
    draws = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    result = make_result(make_run(), {("dev", "score", "hmean"): (0.5, draws), ("dev", "age", "mae"): np.nan})
    append_results(tmp_path, [result], vectors)
    frame = read_results(tmp_path).set_index("metric")
    np.testing.assert_array_equal(frame.loc["hmean", "replicates"], draws)
    assert frame.loc["mae", "replicates"] is None and np.isnan(frame.loc["mae", "value"])


def test_each_call_adds_two_files_that_others_may_read(tmp_path, add):
    add(1, 2)
    add(3)
    assert len(names(tmp_path)) == 4
    assert len({name.split("-", 1)[1].split(".")[0] for name in names(tmp_path)}) == 2
    modes = {(tmp_path / name).stat().st_mode & 0o777 for name in names(tmp_path)}
    assert len(modes) == 1  # weights are as readable as results
    append_results(tmp_path, [], None)
    assert len(names(tmp_path)) == 4


def test_pending_leaves_out_what_is_finished_on_these_vectors(tmp_path, add, vectors, make_run):
    runs = [make_run(seed) for seed in (1, 2, 3, 4)]
    assert pending(runs, vectors, tmp_path / "not there") == runs
    add(1, 3)
    add(4, status="diverged", scores=dict.fromkeys(SCORES, np.nan))
    assert pending(runs, vectors, tmp_path) == [runs[1]]
    relabelled = Vectors.from_arrays(vectors.x, vectors.labels.assign(Age=1.0), feature="toy", corpus="c6")
    assert pending(runs, relabelled, tmp_path) == runs


def test_a_run_that_could_not_be_scored_is_finished(tmp_path, add, vectors, make_run):
    add(1, scores={})
    assert pending([make_run(1)], vectors, tmp_path) == []
    assert load_head(tmp_path, make_run(1).key_on(vectors)).run.seed == 1


def test_a_head_comes_back_as_it_was(tmp_path, add, vectors):
    results = add(1, 2) + add(3)
    for result in results:
        head = load_head(tmp_path, result.key[:10])
        assert head.run == result.run and head.columns == vectors.columns and head.classes == result.head.classes
        assert (head.feature, head.corpus, head.vectors_key) == ("toy", "c6", vectors.fingerprint)
        assert head.state.keys() == result.head.state.keys()
        ours, theirs = apply_head(head, vectors.x), apply_head(result.head, vectors.x)
        for task in theirs:
            np.testing.assert_array_equal(ours[task], theirs[task])


def test_a_name_must_mean_one_run(tmp_path, add):
    keys = [result.key for result in add(*range(1, 40))]
    with pytest.raises(UnknownName, match="unknown run 'zzz'"):
        load_head(tmp_path, "zzz")
    near = keys[0][:11] + "-"
    with pytest.raises(UnknownName, match=f"did you mean '{keys[0][:12]}'"):
        load_head(tmp_path, near)
    shared = next(c for c in "0123456789abcdef" if sum(key.startswith(c) for key in keys) > 1)
    with pytest.raises(CacheError, match="ambiguous"):
        load_head(tmp_path, shared)
    with pytest.raises(UnknownName):
        load_head(tmp_path, "")


def test_best_is_best_on_dev(tmp_path, add):
    for seed, (dev, test) in enumerate([(0.5, 0.9), (0.7, 0.1), (np.nan, 1.0)]):
        add(seed, scores={("dev", "score", "hmean"): dev, ("test", "score", "hmean"): test})
    assert load_head(tmp_path, "best").run.seed == 1


def test_best_is_best_on_test_without_dev(tmp_path, add):
    for seed, test in enumerate([0.2, 0.6, 0.5]):
        add(seed, scores={("test", "score", "hmean"): test})
    assert load_head(tmp_path, "best").run.seed == 1


def test_best_compares_only_what_can_be_compared(tmp_path, add, vectors, make_run, make_result):
    add(1)
    other = Vectors.from_arrays(vectors.x, vectors.labels, feature="toy", corpus="other")
    append_results(tmp_path, [make_result(make_run(2), SCORES, other)], other)
    with pytest.raises(CacheError, match="2 kinds .corpora: c6, other"):
        load_head(tmp_path, "best")
    with pytest.raises(CacheError, match="0 kinds"):
        append_results(tmp_path / "b", [make_result(make_run(2), {("dev", "age", "mae"): 1.0})], vectors)
        load_head(tmp_path / "b", "best")


def test_a_diverged_head_is_not_loaded(tmp_path, add):
    (result,) = add(1, status="diverged", scores=dict.fromkeys(SCORES, np.nan))
    with pytest.raises(CacheError, match="diverged"):
        load_head(tmp_path, result.key)


def test_no_results_is_an_error_that_says_the_way_out(tmp_path):
    with pytest.raises(CacheError, match="vbx heads train --out"):
        read_results(tmp_path / "nothing")


def test_from_training_to_predictions(tmp_path, vectors, make_run):
    """What `train_heads` gives is saved, ranked, loaded again and says of the vectors what its scores say."""
    runs = [make_run(seed, epochs=2, lr=lr) for lr in (1e-3, 1e-2) for seed in (1, 2)]
    train_heads(runs, vectors, max_stack=1, on_results=lambda results: append_results(tmp_path, results, vectors))
    assert pending(runs, vectors, tmp_path) == []
    ranking = rank_results(tmp_path)
    assert ranking["seeds"].tolist() == [2, 2] and set(ranking["fit.lr"]) == {1e-3, 1e-2}
    table = predict(load_head(tmp_path, runs[0].key_on(vectors)), vectors)
    rows = (vectors.labels["split"] == "dev").to_numpy()
    error = (table["Age"] - vectors.labels["Age"])[rows].abs().mean()
    results = read_results(tmp_path).query("split == 'dev' and metric == 'mae' and column == ''").set_index("key")
    assert results.loc[runs[0].key_on(vectors), "value"] == pytest.approx(error, rel=1e-5)


# ------------------------------------------------------------------ killed


@pytest.mark.parametrize("step", [0, 1])
def test_a_killed_append_leaves_nothing_that_counts(tmp_path, add, vectors, make_run, monkeypatch, step):
    add(1)
    before = names(tmp_path)
    assert killed_at(monkeypatch, step, lambda: add(2)) == -signal.SIGKILL
    assert set(names(tmp_path)) > set(before)  # the kill came in the middle
    assert set(read_results(tmp_path)["seed"]) == {1}
    assert pending([make_run(1), make_run(2)], vectors, tmp_path) == [make_run(2)]
    add(3)
    assert len(names(tmp_path)) == 4 and not any("partial" in name for name in names(tmp_path))
    assert set(read_results(tmp_path)["seed"]) == {1, 3}


@pytest.mark.parametrize("step", (0, 1, 4, 5, 12, 23, 24))
def test_a_killed_compact_loses_nothing(tmp_path, add, vectors, monkeypatch, step):
    results = [add(seed)[0] for seed in range(10)]
    before = read_results(tmp_path)
    # Two renames, the partial files (gone by then), two deletions for each of ten parts: then it is done.
    status = killed_at(monkeypatch, step, lambda: compact(tmp_path))
    assert status == (-signal.SIGKILL if step < 24 else 0)
    pd.testing.assert_frame_equal(sorted_frame(read_results(tmp_path)), sorted_frame(before))
    compact(tmp_path)
    add(99)
    assert not any("partial" in name for name in names(tmp_path))
    assert set(read_results(tmp_path)["seed"]) == {*range(10), 99}
    for result in results[::3]:
        assert load_head(tmp_path, result.key).run == result.run


def sorted_frame(frame):
    return frame.sort_values(["key", "split", "task", "metric"], ignore_index=True)


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, add, monkeypatch):
    add(1)
    before = names(tmp_path)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder.os, "fsync", full)
    with pytest.raises(CacheError, match="No space left on device"):
        add(2)
    assert names(tmp_path) == before


# ------------------------------------------------------------------ several at once


def test_processes_may_append_at_once(tmp_path, add):
    def work(first):
        return lambda: [add(seed) for seed in range(first, first + 4)]

    pids = []
    for first in (0, 10, 20):
        pid = os.fork()
        if pid == 0:
            work(first)()
            os._exit(0)
        pids.append(pid)
    assert all(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 for pid in pids)
    assert set(read_results(tmp_path)["seed"]) == {*range(4), *range(10, 14), *range(20, 24)}
    assert len(names(tmp_path)) == 24


def test_a_reader_starts_over_when_parts_are_merged_under_it(tmp_path, add):
    for seed in range(12):
        add(seed)
    seen = []

    def read(part):
        if len(seen) == 5:
            compact(tmp_path)
        seen.append(part)
        return folder.part_keys(part, SCHEMA)

    keys = folder.each_part(tmp_path, read)
    assert len(keys) == 1 and len(keys[0]) == 12


# ------------------------------------------------------------------ few files


def test_compact_makes_many_parts_one(tmp_path, add):
    results = [result for first in range(0, 60, 3) for result in add(first, first + 1, first + 2)]
    before = read_results(tmp_path)
    assert len(names(tmp_path)) == 40
    compact(tmp_path)
    assert len(names(tmp_path)) == 2
    pd.testing.assert_frame_equal(sorted_frame(read_results(tmp_path)), sorted_frame(before))
    for result in (results[0], results[-1]):
        head = load_head(tmp_path, result.key)
        for name, array in result.head.state.items():
            np.testing.assert_array_equal(head.state[name], array)


def test_a_run_that_is_there_twice_counts_once(tmp_path, add):
    for seed in [*range(8), 3, 5]:
        add(seed)
    assert len(read_results(tmp_path)) == 8 * len(SCORES)
    compact(tmp_path)
    assert len(read_results(tmp_path)) == 8 * len(SCORES)
    (heads,) = tmp_path.glob("heads-*")
    with safe_open(heads, "numpy") as file:
        assert len({name.split("/")[0] for name in file.keys()}) == 8


def test_compact_leaves_a_handful_and_large_parts_alone(tmp_path, add, monkeypatch):
    compact(tmp_path / "not there")
    for seed in range(folder.HANDFUL):
        add(seed)
    before = names(tmp_path)
    compact(tmp_path)
    assert names(tmp_path) == before
    monkeypatch.setattr(folder, "FULL", 4)
    for seed in range(100, 103):
        add(seed)
    compact(tmp_path)
    sizes = sorted(len(folder.part_keys(part, SCHEMA)) for part in tmp_path.glob("runs-*"))
    assert sizes == [3, 4, 4]
    large = {part.name for part in tmp_path.glob("runs-*") if len(folder.part_keys(part, SCHEMA)) == 4}
    for seed in range(200, 209):
        add(seed)
    compact(tmp_path)
    assert large < {part.name for part in tmp_path.glob("runs-*")}


# ------------------------------------------------------------------ damaged


def damage_truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def damage_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_flip(path):
    data = bytearray(path.read_bytes())
    data[60] ^= 4
    path.write_bytes(data)


def damage_replace(path):
    path.write_bytes(b"not what it was")


@pytest.mark.parametrize("damage", [damage_truncate, damage_half, damage_flip, damage_replace])
@pytest.mark.parametrize("kind", ["runs", "heads"])
def test_a_damaged_file_is_named(tmp_path, add, vectors, make_run, kind, damage):
    add(1)
    (path,) = tmp_path.glob(f"{kind}-*")
    damage(path)
    reads = [lambda: load_head(tmp_path, "best")]
    if kind == "runs" or damage is not damage_flip:  # what is not read is not found damaged
        reads += [lambda: read_results(tmp_path), lambda: pending([make_run(1)], vectors, tmp_path)]
    for read in reads:
        with pytest.raises(CacheError, match=path.name):
            read()


def test_any_flipped_bit_of_weights_is_found(tmp_path, add):
    (result,) = add(1)
    (path,) = tmp_path.glob("heads-*")
    whole = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 60):
        data = bytearray(whole)
        data[place] ^= 1
        path.write_bytes(data)
        with pytest.raises(CacheError, match=path.name):
            load_head(tmp_path, result.key)


def test_lost_weights_are_named(tmp_path, add):
    add(1)
    (path,) = tmp_path.glob("heads-*")
    path.unlink()
    with pytest.raises(CacheError, match=f"{path.name} is missing"):
        read_results(tmp_path)


def test_weights_of_another_part_are_found_out(tmp_path, add):
    (result,) = add(1)
    add(2)
    mine, other = (next(p for p in tmp_path.glob("heads-*") if has(p, result.key) is mine) for mine in (True, False))
    mine.write_bytes(other.read_bytes())
    with pytest.raises(CacheError, match="holds no weights of run"):
        load_head(tmp_path, result.key)


def has(path, key):
    with safe_open(path, "numpy") as file:
        return key in file.metadata()


@pytest.mark.parametrize("name", ["mine.parquet", "runs-mine.parquet", "mine.safetensors"])
def test_a_foreign_file_is_named(tmp_path, add, name):
    add(1)
    pd.DataFrame({"key": ["a"]}).to_parquet(tmp_path / name)
    (tmp_path / "heads-mine.safetensors").write_bytes(next(tmp_path.glob("heads-*")).read_bytes())
    with pytest.raises(CacheError, match=name):
        read_results(tmp_path)


def test_other_files_may_lie_beside(tmp_path, add):
    add(1)
    (tmp_path / "report.html").write_text("<p>")
    (tmp_path / "head-best").mkdir()
    assert set(read_results(tmp_path)["seed"]) == {1}
