"""The audformat reader against databases that audformat itself wrote."""

import sys

import pandas as pd
import pytest

from vbx.errors import CorpusError, MissingExtra, UnknownName
from vbx.extract.corpus import read_corpus
from vbx.extract.readers import audformat as reader

audformat = pytest.importorskip("audformat")

EMOTIONS = ["anger", "joy", "neutral"]


@pytest.fixture
def database():
    """A database after the conventions: speakers in a table of their own, a gold standard in two splits."""
    db = audformat.Database("small", usage="research")
    db.splits["train"] = audformat.Split("train")
    db.splits["test"] = audformat.Split("test")
    db.schemes["age"] = audformat.Scheme("int", minimum=0, maximum=100)
    db.schemes["gender"] = audformat.Scheme(labels=["male", "female", "other"])
    db["speaker"] = audformat.MiscTable(pd.Index(["03", "08"], name="speaker", dtype="string"))
    add(db["speaker"], "age", [31, 34])
    add(db["speaker"], "gender", ["male", "female"])
    db.schemes["speaker"] = audformat.Scheme("str", labels="speaker")
    db.schemes["emotion"] = audformat.Scheme(labels=EMOTIONS)
    db.schemes["arousal"] = audformat.Scheme("float", minimum=-1, maximum=1)
    db.schemes["duration"] = audformat.Scheme("time")
    db.schemes["acted"] = audformat.Scheme("bool")
    db["files"] = audformat.Table(audformat.filewise_index(["b.wav", "a.wav", "c.wav"]))
    add(db["files"], "speaker", ["08", "03", None])
    add(db["files"], "duration", pd.to_timedelta([2.5, 1.5, None], unit="s"))
    add(db["files"], "acted", [True, False, None])
    return db


def add(table, name, values, scheme=None):
    table[name] = audformat.Column(scheme_id=scheme or name)
    table[name].set(values)


def add_table(db, name, files, split=None, **columns):
    db[name] = audformat.Table(audformat.filewise_index(files), split_id=split)
    for column, values in columns.items():
        add(db[name], column, values)


def read(db, path, reader_name=None, form="csv"):
    db.save(path, storage_format=form)
    return read_corpus(path, reader_name)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_one_row_a_file_with_the_facts_of_its_speaker(database, tmp_path, form):
    corpus = read(database, tmp_path, form=form)
    assert corpus.reader == "audformat"
    assert corpus.labels.loc["b.wav"].to_dict() == {
        "speaker": "08",
        "age": 34.0,
        "gender": "female",
        "duration": 2.5,
        "acted": "True",
    }
    assert corpus.labels.loc["a.wav", "speaker"] == "03" and corpus.labels.loc["a.wav", "acted"] == "False"
    assert corpus.labels.loc["c.wav"].isna().all()
    assert [u.id for u in corpus.utterances] == ["b.wav", "a.wav", "c.wav"]


def test_schemes_give_the_schema(database, tmp_path):
    add_table(database, "labels", ["a.wav", "b.wav"], emotion=["joy", "anger"], arousal=[0.5, None])
    schema = read(database, tmp_path).schema
    assert schema["speaker"].kind == "text"
    assert schema["emotion"].classes == tuple(EMOTIONS) and schema["emotion"].missing
    assert schema["gender"].classes == ("female", "male", "other")
    assert (schema["age"].kind, schema["age"].low, schema["age"].high) == ("number", 0, 100)
    assert (schema["arousal"].low, schema["arousal"].high) == (-1, 1)
    assert (schema["duration"].kind, schema["duration"].unit) == ("number", "s")
    assert schema["acted"].classes == ("False", "True")


def test_speaker_facts_from_a_dictionary(tmp_path):
    db = audformat.Database("x", usage="research")
    db.schemes["speaker"] = audformat.Scheme(labels={1: {"sex": "f", "age": 40}, 2: {"sex": "m"}})
    add_table(db, "files", ["a.wav", "b.wav"])
    add(db["files"], "who", [1, 2], "speaker")
    labels = read(db, tmp_path).labels
    assert labels["speaker"].tolist() == ["1", "2"] and labels["sex"].tolist() == ["f", "m"]
    assert labels["age"].iloc[0] == 40 and labels["age"].isna().iloc[1]


def test_labels_of_a_table_come_before_facts_of_the_speaker(database, tmp_path):
    add_table(database, "age", ["a.wav", "b.wav"], age=[32, 35])
    assert read(database, tmp_path).labels["age"].loc[["a.wav", "b.wav"]].tolist() == [32, 35]


def test_splits_come_from_the_tables(database, tmp_path):
    add_table(database, "emotion.train", ["a.wav"], "train", emotion=["joy"])
    add_table(database, "emotion.test", ["b.wav"], "test", emotion=["anger"])
    labels = read(database, tmp_path).labels
    assert labels["split"].to_dict() == {"a.wav": "train", "b.wav": "test", "c.wav": None}
    assert labels["emotion"].to_dict() == {"a.wav": "joy", "b.wav": "anger", "c.wav": None}


def test_gold_standard_is_preferred(database, tmp_path):
    add_table(database, "emotion", ["a.wav", "b.wav", "c.wav"], emotion=["anger", "anger", "neutral"])
    add_table(database, "emotion.train.gold_standard", ["a.wav"], "train", emotion=["joy"])
    add_table(database, "emotion.test.gold_standard", ["b.wav"], "test", emotion=["neutral"])
    corpus = read(database, tmp_path)
    assert corpus.labels["emotion"].to_dict() == {"a.wav": "joy", "b.wav": "neutral", "c.wav": None}
    assert corpus.notes == ("'emotion' is read from 'emotion.gold_standard' alone",)


def test_tables_that_contradict_each_other_keep_their_names(database, tmp_path):
    add_table(database, "emotion.voice", ["a.wav", "b.wav"], emotion=["joy", "joy"])
    add_table(database, "emotion.face", ["a.wav", "b.wav"], emotion=["joy", "anger"])
    corpus = read(database, tmp_path)
    assert corpus.labels["emotion.voice.emotion"].tolist() == ["joy", "joy", None]
    assert corpus.labels.loc["b.wav", "emotion.face.emotion"] == "anger"
    assert "emotion" not in corpus.labels and corpus.schema["emotion.face.emotion"].classes == tuple(EMOTIONS)
    assert "'emotion.face', 'emotion.voice'" in corpus.notes[0]
    one = read_corpus(tmp_path, "audformat:files,emotion.face")
    assert one.labels["emotion"].to_dict() == {"a.wav": "joy", "b.wav": "anger", "c.wav": None}


def test_tables_that_agree_become_one(database, tmp_path):
    add_table(database, "x", ["a.wav", "b.wav"], emotion=["joy", None])
    add_table(database, "y", ["a.wav", "b.wav"], emotion=["joy", "anger"])
    corpus = read(database, tmp_path)
    assert corpus.labels["emotion"].to_dict() == {"b.wav": "anger", "a.wav": "joy", "c.wav": None}
    assert corpus.notes == ()


def test_same_name_of_another_scheme_is_another_column(database, tmp_path):
    add_table(database, "x", ["a.wav"])
    add(database["x"], "rater", ["joy"], "emotion")
    add_table(database, "y", ["b.wav"])
    add(database["y"], "rater", [0.5], "arousal")
    labels = read(database, tmp_path).labels
    assert labels.loc["a.wav", "x.rater"] == "joy" and labels.loc["b.wav", "y.rater"] == 0.5


def test_segments_take_over_the_labels_of_their_file(database, tmp_path):
    index = audformat.segmented_index(["a.wav", "a.wav"], ["0s", "1s"], ["1s", pd.NaT])
    database["turns"] = audformat.Table(index)
    add(database["turns"], "emotion", ["anger", None])
    corpus = read(database, tmp_path)
    assert {u.id: (u.start_s, u.end_s) for u in corpus.utterances} == {
        "b.wav": (0.0, None),
        "c.wav": (0.0, None),
        "a.wav#0.000-1.000": (0.0, 1.0),
        "a.wav#1.000-": (1.0, None),
    }
    assert corpus.labels.loc["a.wav#1.000-", ["speaker", "age", "emotion"]].tolist() == ["03", 31.0, None]
    assert corpus.labels.loc["a.wav#0.000-1.000", "emotion"] == "anger"
    assert corpus.notes == ("1 files are cut into segments, and are no utterances as a whole",)


def test_file_in_two_splits(database, tmp_path):
    add_table(database, "emotion.train", ["a.wav"], "train", emotion=["joy"])
    add_table(database, "emotion.test", ["a.wav"], "test", emotion=["joy"])
    with pytest.raises(CorpusError, match=r"emotion\.test, emotion\.train list 'a\.wav' twice"):
        read(database, tmp_path)


def test_tables_with_other_splits(database, tmp_path):
    add_table(database, "emotion.train", ["a.wav"], "train", emotion=["joy"])
    add_table(database, "arousal.test", ["a.wav"], "test", arousal=[0.5])
    with pytest.raises(CorpusError, match=r"different splits.*--reader audformat:"):
        read(database, tmp_path)
    assert read_corpus(tmp_path, "audformat:files,arousal").labels.loc["a.wav", "split"] == "test"


def test_other_splits_are_no_split(database, tmp_path):
    database.splits["session1"] = audformat.Split("other")
    add_table(database, "emotion.session1", ["a.wav"], "session1", emotion=["joy"])
    assert "split" not in read(database, tmp_path).labels


def test_columns_called_like_keys_are_labels(database, tmp_path):
    database.schemes["start"] = audformat.Scheme("float")
    add_table(database, "x", ["a.wav"], start=[3.5])
    corpus = read(database, tmp_path)
    assert corpus.labels.loc["a.wav", "x.start"] == 3.5 and corpus.utterances[1].start_s == 0.0


def test_absolute_paths_inside_the_folder(tmp_path):
    db = audformat.Database("x", usage="research")
    add_table(db, "files", [str(tmp_path / "audio/a.wav")])
    assert [u.id for u in read(db, tmp_path).utterances] == ["audio/a.wav"]


@pytest.mark.parametrize("file", ["/etc/a.wav", "../a.wav", "audio/../../a.wav"])
def test_paths_outside_the_folder(tmp_path, file):
    db = audformat.Database("x", usage="research")
    add_table(db, "files", [file])
    with pytest.raises(CorpusError, match="does not lie inside"):
        read(db, tmp_path)


def test_unknown_table(database, tmp_path):
    with pytest.raises(UnknownName, match="'files'"):
        read(database, tmp_path, "audformat:file")


def test_database_without_tables(tmp_path):
    with pytest.raises(CorpusError, match="no tables"):
        read(audformat.Database("x", usage="research"), tmp_path)


def test_pickles_are_not_read(database, tmp_path):
    with pytest.raises(CorpusError, match="pickle"):
        read(database, tmp_path, form="pkl")
    for table in tmp_path.glob("*.pkl"):
        table.write_bytes(b"never opened")
    database.save(tmp_path, storage_format="parquet", update_other_formats=False)
    assert len(read_corpus(tmp_path).utterances) == 3
    assert {p.read_bytes() for p in tmp_path.glob("*.pkl")} == {b"never opened"}


def test_header_that_would_run_code(database, tmp_path):
    database.save(tmp_path)
    header = tmp_path / "db.yaml"
    made = tmp_path / "made"
    header.write_text(header.read_text() + f"meta: !!python/object/apply:os.mkdir [{str(made)!r}]\n")
    with pytest.raises(CorpusError, match="cannot be read"):
        read_corpus(tmp_path)
    assert not made.exists()


@pytest.mark.parametrize("text", ["", "- a list\n", "name: x\n", "name: [\n", "name: x\nusage: nothing\nsource: ''\n"])
def test_faulty_headers(tmp_path, text):
    (tmp_path / "db.yaml").write_text(text)
    with pytest.raises(CorpusError, match="cannot be read"):
        read_corpus(tmp_path)


def test_table_that_is_not_there(database, tmp_path):
    database.save(tmp_path, storage_format="csv")
    (tmp_path / "db.files.csv").unlink()
    with pytest.raises(CorpusError, match=r"db\.files"):
        read_corpus(tmp_path)


def test_without_header(tmp_path):
    with pytest.raises(CorpusError, match=r"db\.yaml"):
        read_corpus(tmp_path, "audformat")


def test_without_the_package(database, tmp_path, monkeypatch):
    database.save(tmp_path)
    monkeypatch.setitem(sys.modules, "audformat", None)
    assert reader.recognises(tmp_path)
    with pytest.raises(MissingExtra, match=r"vbx\[audformat\]"):
        read_corpus(tmp_path)
