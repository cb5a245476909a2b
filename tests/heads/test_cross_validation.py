"""Cross-validated runs: pooled scores against plain loops, and what no fold may depend on."""

import json
from dataclasses import replace

import audmetric
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import recall_score
from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold
from torch import nn

import vbx.heads.jobs
from tests.heads.test_training import Count
from vbx.cache.vectors import Vectors
from vbx.errors import CacheError, UnknownName
from vbx.heads.board import SCHEMA, append_results, load_head, pending, read_results
from vbx.heads.draws import draw_order
from vbx.heads.parts import Fit, Score, Task, Trunk, fit_score
from vbx.heads.predict import predict
from vbx.heads.protocol import Protocol
from vbx.heads.protocols.corpora import join_corpora
from vbx.heads.ranking import rank_results
from vbx.heads.run import Run
from vbx.heads.training import train_heads

COUNTRY = Task("country", ("country",), "cross_entropy", ("uar",), weight=1.3)
AGE = Task("age", ("age",), "mse", ("ccc", "mae"), hidden=(5,), weight=0.01)
LOSO, KFOLD = Protocol("leave_one_group_out"), Protocol("kfold", folds=4)


@pytest.fixture(params=["kernel", "torch"])
def engine(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setenv("VBX_KERNEL", "none")


def make_vectors(n=96, speakers=8, seed=0, corpus="array"):
    random = np.random.default_rng(seed)
    x = random.standard_normal((n, 6)).astype(np.float32) * 2 + 1
    signal = x @ random.standard_normal((6, 2)) / 4
    labels = {
        "split": np.resize(["train", "dev", "test"], n),
        "speaker": [f"s{i % speakers}" for i in range(n)],
        "country": np.array(["cn", "us", "za"])[np.digitize(signal[:, 0], [-0.6, 0.8])],
        "age": 30 + 5 * signal[:, 1],
    }
    return Vectors.from_arrays(x, pd.DataFrame(labels), corpus=corpus)


def make_run(protocol=LOSO, seed=1, tasks=(COUNTRY, AGE), trunk=None, **fit):
    fit = Fit(**{"dtype": "float64", "batch_size": 8, "epochs": 6, "patience": 2, "lr": 0.02, **fit})
    return Run("", "", seed, tasks, trunk or Trunk((8,)), fit, fit_score(Score(), tasks), protocol=protocol)


def rows_of(result, part=""):
    return {(r.split, r.task, r.column, r.metric): r for r in result.rows if r.part == part}


def same_heads(a, b):
    assert a.keys() == b.keys()
    return all(np.array_equal(a[k].state[n], b[k].state[n]) for k in a for n in a[k].state)


# ------------------------------------------------------- against a plain loop that knows none of our code but the draws


class Plain(nn.Module):
    def __init__(self, dim, classes):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(dim, 8), nn.LayerNorm(8), nn.LeakyReLU())
        self.country = nn.Linear(8, classes)
        self.age = nn.Sequential(nn.Linear(8, 5), nn.LeakyReLU(), nn.Linear(5, 1))

    def forward(self, x):
        h = self.trunk(x)
        return self.country(h), self.age(h)[:, 0]


def plain_loss(net, x, country, age):
    logits, years = net(x)
    return 1.3 * nn.functional.cross_entropy(logits, country) + 0.01 * nn.functional.mse_loss(years, age)


def plain_fold(x, country, age, rows, fit, seed):
    """Train on some rows, keep the epoch that is best on dev, and say what it says of test."""
    train, dev, test = rows
    centre, spread = x[train].mean(0), x[train].std(0)
    x = torch.from_numpy((x - centre) / spread)
    torch.manual_seed(seed)
    net = Plain(x.shape[1], int(country.max()) + 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=fit.lr)
    best, waited, kept = np.inf, 0, None
    for epoch in range(1, fit.epochs + 1):
        for batch in draw_order(seed, epoch, len(train)).split(fit.batch_size):
            chosen = train[batch.numpy()]
            optimizer.zero_grad()
            plain_loss(net, x[chosen], country[chosen], age[chosen]).backward()
            optimizer.step()
        if not len(dev):
            continue
        with torch.no_grad():
            loss = float(plain_loss(net, x[dev], country[dev], age[dev]))
        if loss < best:
            best, waited, kept = loss, 0, {k: v.clone() for k, v in net.state_dict().items()}
        else:
            waited += 1
            if waited == fit.patience:
                break
    net.load_state_dict(kept or net.state_dict())
    with torch.no_grad():
        logits, years = net(x[test])
    return logits.argmax(1).numpy(), years.numpy()


def plain_pool(run, vectors, folds):
    """Predictions of all folds, each utterance's in its own place."""
    torch.set_default_dtype(torch.float64)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # such small products are no work for threads that wait for each other
    try:
        labels, n = vectors.labels, len(vectors.ids)
        names = sorted(set(labels["country"]))
        country = torch.tensor([names.index(c) for c in labels["country"]])
        age = torch.from_numpy(labels["age"].to_numpy(np.float64, copy=True))
        x = vectors.x.astype(np.float64)
        classes, years = np.full(n, -1), np.full(n, np.nan)
        for k, test in enumerate(folds):
            dev = folds[(k + 1) % len(folds)] if len(folds) > 2 else np.zeros(0, int)
            train = np.setdiff1d(np.arange(n), np.concatenate([test, dev]))
            classes[test], years[test] = plain_fold(x, country, age, (train, dev, test), run.fit, run.seed)
        return country.numpy(), classes, age.numpy(), years
    finally:
        torch.set_num_threads(before)
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", ["loso", "kfold", "two groups"])
def test_pooled_scores_equal_those_of_a_plain_loop_over_folds(name, engine):
    vectors = make_vectors(speakers=2 if name == "two groups" else 8)
    run = make_run(KFOLD if name == "kfold" else LOSO)
    if name == "kfold":
        splitter = StratifiedGroupKFold(4, shuffle=True, random_state=1)
        folds = splitter.split(vectors.x, vectors.labels["country"], vectors.labels["speaker"])
    else:
        folds = LeaveOneGroupOut().split(vectors.x, groups=vectors.labels["speaker"])
    true, said, age, years = plain_pool(run, vectors, [test for _, test in folds])
    (result,) = train_heads([run], vectors)
    rows = rows_of(result)
    assert rows["test", "country", "", "uar"].value == pytest.approx(
        recall_score(true, said, average="macro"), abs=1e-12
    )
    assert rows["test", "age", "", "ccc"].value == pytest.approx(
        audmetric.concordance_cc(age, years, ignore_nan=False), abs=1e-8
    )
    assert rows["test", "age", "", "mae"].value == pytest.approx(np.abs(age - years).mean(), abs=1e-9)
    assert rows["test", "country", "", "uar"].n == rows["test", "age", "", "mae"].n == len(vectors.ids)
    assert {("dev", "age", "", "mae") in rows} == {name != "two groups"}


# ---------------------------------------------------------------------------------------- what a fold is, bit for bit


@pytest.mark.parametrize("protocol", [LOSO, KFOLD], ids=["loso", "kfold"])
def test_a_fold_is_the_run_that_a_split_of_its_own_would_give(protocol, engine):
    vectors = make_vectors()
    (result,) = train_heads([make_run(protocol, dtype="float32")], vectors)
    names = list(result.folds)
    part_of = {}
    for name in names:
        head, frame = result.folds[name].head, rows_of(result, name)
        part_of[name] = frame["test", "country", "", "uar"].n
        if protocol is LOSO:
            speakers = vectors.labels["speaker"]
            after = names[(names.index(name) + 1) % len(names)].removeprefix("speaker=")
            split = np.where(
                speakers == name.removeprefix("speaker="), "test", np.where(speakers == after, "dev", "train")
            )
            own = Vectors.from_arrays(vectors.x, vectors.labels.assign(split=split))
            (alone,) = train_heads([make_run(Protocol(), dtype="float32")], own)
            assert all(np.array_equal(alone.head.state[n], head.state[n]) for n in head.state)
            assert alone.head.calibration == head.calibration
            fold = result.folds[name]
            assert (alone.epochs, alone.best_epoch, alone.curve) == (fold.epochs, fold.best_epoch, fold.curve)
            ours = {key: row.value for key, row in frame.items()}
            assert ours == {key: row.value for key, row in rows_of(alone).items()}
    assert sum(part_of.values()) == len(vectors.ids)
    assert all(row.replicates is None for row in result.rows if row.part)
    assert result.head is None and len(result.heads) == len(names)
    assert result.seconds == sum(fold.seconds for fold in result.folds.values())
    assert result.epochs == round(np.mean([fold.epochs for fold in result.folds.values()]))


def test_labels_that_a_fold_tests_change_nothing_in_it(engine):
    vectors = make_vectors()
    labels = vectors.labels.copy()
    there = (labels["speaker"] == "s3").to_numpy()
    for column in ("country", "age"):
        labels.loc[there, column] = labels.loc[there, column].to_numpy()[::-1]
    other = Vectors.from_arrays(vectors.x, labels)
    runs = [make_run(seed=s, monitor=m) for s, m in ((1, "loss"), (2, "score"))]
    for a, b in zip(train_heads(runs, vectors), train_heads(runs, other), strict=True):
        for name, fold in a.folds.items():
            same = all(np.array_equal(fold.head.state[n], b.folds[name].head.state[n]) for n in fold.head.state)
            assert same == (name == "speaker=s3")  # every other fold learns from them, or is chosen by them
        parts = [rows_of(r, "speaker=s3") for r in (a, b)]
        assert parts[0]["dev", "age", "", "mae"].value == parts[1]["dev", "age", "", "mae"].value
        assert parts[0]["test", "age", "", "mae"].value != parts[1]["test", "age", "", "mae"].value


def test_results_do_not_depend_on_neighbours_threads_or_kept_folds(engine, monkeypatch):
    vectors = make_vectors()
    runs = [make_run(p, seed=s, lr=lr, epochs=5) for p in (LOSO, KFOLD) for s, lr in ((1, 0.02), (2, 0.1), (3, 0.001))]
    first = train_heads(runs, vectors)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        reversed_ = train_heads(runs[::-1], vectors, max_stack=2)[::-1]
        monkeypatch.setattr(vbx.heads.jobs, "KEPT_BYTES", 1)  # no fold is kept: some runs are handed over together
        handed = []
        forgetful = train_heads(runs, vectors, on_results=lambda results: handed.append(len(results)))
    finally:
        torch.set_num_threads(before)
    for again in (reversed_, forgetful):
        for a, b in zip(first, again, strict=True):
            assert same_heads(a.heads, b.heads) and a.notes == b.notes and a.curve == b.curve
            assert [replace(r, replicates=None) for r in a.rows] == [replace(r, replicates=None) for r in b.rows]
    assert sum(handed) == len(runs)


def test_folds_are_of_one_seed_and_runs_of_their_own():
    a, b = train_heads([make_run(KFOLD, seed=s) for s in (1, 2)], make_vectors())
    counts = [{k: r.n for k, r in rows_of(x, "fold=2").items()} for x in (a, b)]
    assert counts[0] == counts[1] and not same_heads(
        a.heads | {}, {k.replace(b.key, a.key): v for k, v in b.heads.items()}
    )
    (c,) = train_heads([make_run(replace(KFOLD, seed=5))], make_vectors())
    assert c.key != a.key


def test_without_dev_the_last_epoch_counts_and_that_is_said():
    (two,) = train_heads([make_run(epochs=4, patience=1)], make_vectors(speakers=2))
    assert (two.epochs, two.best_epoch, two.curve) == (4, 4, ())
    assert any("no dev split" in note for note in two.notes) and not any(r.split == "dev" for r in two.rows)
    (three,) = train_heads([make_run(epochs=4, patience=1, min_delta=1e3)], make_vectors(speakers=3))
    assert (three.epochs, three.best_epoch) == (2, 1) and len(three.curve) == 2 and three.notes == ()


def test_a_fold_that_diverges_takes_the_score_of_the_run_with_it(engine):
    vectors = make_vectors()
    vectors.x[:, 0] = np.where(vectors.labels["speaker"] == "s2", vectors.x[:, 0] * 1e18, vectors.x[:, 0])
    fine = {"scale": "none", "optimizer": "sgd", "lr": 1e-4}
    (result,) = train_heads([make_run(tasks=(AGE,), trunk=Trunk((), norm="none"), dtype="float32", **fine)], vectors)
    told = {name: fold.status for name, fold in result.folds.items()}
    assert result.status == "diverged" and told["speaker=s2"] == "ok" and "diverged" in told.values()
    assert all(np.isnan(row.value) for row in rows_of(result).values())
    assert any(note.startswith("folds that diverged") and "speaker=s2" not in note for note in result.notes)


def test_progress_counts_the_epochs_of_every_fold():
    count = Count()
    runs = [make_run(KFOLD), make_run(LOSO), make_run(Protocol())]
    train_heads(runs, make_vectors(), progress=count)
    assert count.total == 6 * (4 + 8 + 1)


# ----------------------------------------------------------------------------------------------- corpora


def test_across_corpora_there_is_one_head_and_a_part_for_each_tested_corpus(tmp_path):
    joined = join_corpora([make_vectors(60, seed=s, corpus=name) for s, name in enumerate(("one", "two", "three"))])
    run = make_run(Protocol("cross_corpus", train=("one",), test=("three", "two")))
    (result,) = train_heads([run], joined)
    assert result.head is not None and not result.folds and list(result.heads) == [result.key]
    n = {part: rows_of(result, part)["test", "age", "", "mae"].n for part in ("", "corpus=two", "corpus=three")}
    assert n == {"": 120, "corpus=two": 60, "corpus=three": 60}
    mae = {part: rows_of(result, part)["test", "age", "", "mae"].value for part in n}
    assert mae[""] == pytest.approx((mae["corpus=two"] + mae["corpus=three"]) / 2)
    append_results(tmp_path, [result], joined)
    head = load_head(tmp_path, result.key)
    assert same_heads({"": head}, {"": result.head})
    said = predict(head, joined)
    two = (joined.labels["corpus"] == "two").to_numpy()
    assert np.abs(said["age"] - joined.labels["age"])[two].mean() == pytest.approx(mae["corpus=two"], abs=1e-4)
    own = joined.labels["split"].to_numpy()[:60]
    dev = rows_of(result)["dev", "age", "", "mae"].n
    assert dev == (own == "dev").sum() and any("20 utterances of corpus 'one'" in note for note in result.notes)


# ----------------------------------------------------------------------------------------------- on disk


@pytest.fixture
def kept(tmp_path):
    """A folder with a cross-validated run and one on splits."""
    vectors = make_vectors()
    results = train_heads([make_run(LOSO, seed=s) for s in (1, 2)] + [make_run(Protocol())], vectors)
    append_results(tmp_path, results, vectors)
    return tmp_path, vectors, results


def test_parts_are_kept_and_never_ranked(kept):
    out, vectors, (first, _, plain) = kept
    pool, every = read_results(out), read_results(out, parts=True)
    assert set(pool["part"]) == {""} and set(every["part"]) == {"", *first.folds}
    assert len(every) == sum(len(r.rows) for r in kept[2]) and (every["part"] == "").sum() == len(pool)
    mine = every[every["key"] == first.key]
    for name, fold in first.folds.items():
        part = mine[mine["part"] == name]
        assert set(part["epochs"]) == {fold.epochs} and set(part["best_epoch"]) == {fold.best_epoch}
        np.testing.assert_allclose(part["curve"].iloc[0], np.float32(fold.curve))
        assert all(curve is None for curve in part["curve"].iloc[1:])
        assert all(replicates is None for replicates in part["replicates"])
    np.testing.assert_allclose(mine[mine["part"] == ""]["curve"].iloc[0], np.float32(first.curve))
    ranking = rank_results(out)
    assert sorted(ranking["seeds"]) == [1, 2] and "protocol.kind" in ranking.columns
    assert set(ranking["protocol.kind"]) == {"splits", "leave_one_group_out"}
    loso = ranking[ranking["protocol.kind"] == "leave_one_group_out"].iloc[0]
    values = [rows_of(r)["dev", "score", "", "hmean"].value for r in kept[2][:2]]
    assert loso["dev.score"] == pytest.approx(np.mean(values))
    assert pending([r.run for r in kept[2]], vectors, out) == []


def test_heads_of_folds_are_loaded_by_name(kept):
    out, _, (first, _, plain) = kept
    for name, fold in first.folds.items():
        head = load_head(out, f"{first.key[:10]}/{name}")
        assert same_heads({"": head}, {"": fold.head}) and head.run == first.run
    assert same_heads({"": load_head(out, plain.key[:10])}, {"": plain.head})
    with pytest.raises(CacheError, match=r"8 heads.*/speaker=s0: speaker=s0, speaker=s1.*speaker=s7"):
        load_head(out, first.key)
    with pytest.raises(UnknownName, match="speaker=s3"):
        load_head(out, f"{first.key}/speaker=3")
    with pytest.raises(UnknownName, match="single head"):
        load_head(out, f"{plain.key}/speaker=s3")


def test_the_best_run_may_be_cross_validated(tmp_path):
    vectors = make_vectors()
    results = train_heads([make_run(KFOLD)], vectors)
    append_results(tmp_path, results, vectors)
    with pytest.raises(CacheError, match="fold=1, fold=2, fold=3, fold=4"):
        load_head(tmp_path, "best")
    assert same_heads({"": load_head(tmp_path, "best/fold=3")}, {"": results[0].folds["fold=3"].head})


def test_results_of_before_there_were_parts_are_read(kept):
    out, vectors, (_, _, plain) = kept
    (part,) = out.glob("runs-*.parquet")
    table = pq.read_table(part).filter(pq.read_table(part)["key"].to_numpy() == plain.key)
    for columns in (["part"], ["part", "curve"]):
        pq.write_table(table.drop_columns(columns), part, write_page_checksum=True)
        frame = read_results(out, parts=True)
        assert set(frame["part"]) == {""} and list(frame.columns) == SCHEMA.names and len(frame) == len(plain.rows)
        assert same_heads({"": load_head(out, "best")}, {"": plain.head})
        assert len(rank_results(out)) == 1


def test_settings_name_the_protocol(kept):
    frame = read_results(kept[0])
    settings = [json.loads(text).get("protocol") for text in frame["settings"]]
    assert [s for s in settings if s][0] == {"kind": "leave_one_group_out"} and None in settings


def test_corpora_of_one_size_are_not_paired(tmp_path):
    joined = join_corpora([make_vectors(48, seed=s, corpus=name) for s, name in enumerate(("one", "two", "three"))])
    protocols = [Protocol("cross_corpus", train=("one",), test=(name,)) for name in ("two", "three")]
    append_results(tmp_path, train_heads([make_run(p, seed=s) for p in protocols for s in (1, 2)], joined), joined)
    (frame,) = [rank_results(tmp_path)]
    # Dev is that of the same corpus for both; what they were tested on differs.
    assert frame["pairs"].tolist() == [0, 0]
