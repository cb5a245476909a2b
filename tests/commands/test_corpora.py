"""`vbx heads train` on several corpora, and by protocols."""

import json

import numpy as np
import pandas as pd
import pytest

from vbx.cache.importing import import_vectors
from vbx.cache.store import Store
from vbx.cache.vectors import Vectors


@pytest.fixture
def vbx(tmp_path, monkeypatch, command_line):
    """A cache of two corpora with one feature in both and one in the first alone; runs a command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    store = Store("vbx-cache")
    for corpus, n, features in (("emodb", 30, ("array:both", "array:one")), ("nemo", 24, ("array:both",))):
        random = np.random.default_rng(n)
        labels = {
            "split": np.resize(["train", "train", "dev", "test"], n),
            "speaker": [f"{i % 5:02}" for i in range(n)],
            "emotion": np.resize(["anger", "joy", "joy"] if corpus == "emodb" else ["anger", "happiness", "fear"], n),
        }
        frame = pd.DataFrame(labels, index=[f"u{i}" for i in range(n)])
        for feature in features:
            x = random.standard_normal((n, 4)) + (frame["emotion"] == "anger").to_numpy()[:, None]
            vectors = Vectors.from_arrays(x, frame, corpus=corpus, feature=feature)
            import_vectors(store, vectors)

    return command_line


TRAIN = ("heads", "train", "--target", "emotion", "--seeds", "1", "--set", "fit.epochs=2", "--json")
CROSS = ("--set", "protocol.kind=cross_corpus", "--set", 'protocol.train=["emodb"]')
MAPPED = [word for name, to in (("joy", "pos"), ("happiness", "pos"), ("anger", "neg"), ("nemo:fear", "''"))
          for word in ("--set", f"mapping.emotion.{name}={to}")]  # fmt: skip


def test_corpora_are_joined_by_what_the_protocol_names(vbx):
    code, out, err = vbx(*TRAIN, *CROSS, "--set", 'protocol.test=["nemo"]', *MAPPED)
    assert code == 0, err
    told = json.loads(out)
    (place,) = told["features"]
    assert (place["corpus"], place["feature"], told["trained"]) == ("emodb+nemo", "array:both", 1)
    assert "fear (8)" in err and "joy to pos (20)" in err and err.count("fear (8)") == 1
    code, out, _ = vbx(*TRAIN, "--corpus", "emodb+nemo", *CROSS, "--set", 'protocol.test=["nemo"]', *MAPPED)
    assert json.loads(out)["trained"] == 0 and json.loads(out)["finished"] == 1
    code, out, _ = vbx(*TRAIN, *CROSS, "--set", 'protocol.test=["nemo"]')  # other labels, another run
    assert json.loads(out)["trained"] == 1


def test_protocols_are_an_axis_of_a_sweep(vbx):
    kinds = "protocol.kind=[splits, kfold,leave_one_group_out]"  # as a shell leaves them
    code, out, err = vbx(*TRAIN, "--corpus", "emodb", "--feature", "array:one", "--set", kinds)
    assert code == 0, err
    ranking = json.loads(out)["ranking"]
    assert sorted(row["protocol.kind"] for row in ranking) == ["kfold", "leave_one_group_out", "splits"]
    code, _, err = vbx("heads", "predict", ranking[0]["run"][:12] + "/fold=9", "--corpus", "emodb")
    assert code == 1 and ("fold=5" in err or "speaker=04" in err or "single head" in err)
    loso = next(row["run"] for row in ranking if row["protocol.kind"] == "leave_one_group_out")
    code, out, err = vbx("heads", "predict", f"{loso[:12]}/speaker=03", "--corpus", "emodb")
    assert code == 0 and out.count("\n") == 31, err
    code, _, err = vbx("heads", "predict", loso[:12], "--corpus", "emodb")
    assert code == 1 and "speaker=00, speaker=01" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--corpus", "emodb+nemoo"], "did you mean 'nemo'"),
        (["--corpus", "emodb+nemo", "-f", "array:one"], "no vectors of 'array:one'"),
        (["--corpus", "emodb+emodb"], "named twice"),
        (["--corpus", "emodb+nemo", *MAPPED[:-2]], "'nemo:fear' = 'NAME'"),
        (["--corpus", "emodb+nemo", *CROSS, "--set", 'protocol.test=["nmo"]'], "did you mean 'nemo'"),
        (["--corpus", "emodb", "--set", "protocol.kind=kfold", "--set", "protocol.folds=6"], "at most 5 folds"),
        (["--corpus", "emodb", *CROSS, "--set", 'protocol.test=["nemo"]'], "--corpus emodb+nemo"),
        (["--corpus", "emodb", "--set", "protocol.kind=kfold", "--set", "protocol.group=sex"], "protocol.group"),
    ],
)
def test_what_cannot_be_trained(vbx, words, says):
    code, out, err = vbx(*TRAIN, *words)
    assert code == 1 and says in err and "Traceback" not in err, err
