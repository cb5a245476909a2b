"""Reading a corpus: the reader that is found, ids, paths, repeated rows; the real corpora."""

import sys

import pytest

from vbx.errors import CorpusError, UnknownName
from vbx.extract.corpus import read_corpus
from vbx.plugins import find_plugin, plugin_names

READERS = "vbx.extract.readers"


@pytest.fixture
def table(tmp_path):
    """Write `labels.csv` into a corpus folder."""

    def write(text):
        folder = tmp_path / "corpus"
        folder.mkdir(exist_ok=True)
        (folder / "labels.csv").write_text(text)
        return folder

    return write


def test_readers_are_asked_in_order(tmp_path):
    orders = {name: find_plugin("reader", READERS, name).order for name in plugin_names(READERS)}
    assert sorted(orders, key=orders.get) == ["exvo", "audformat", "table", "folders"]
    (tmp_path / "a.wav").touch()
    assert read_corpus(tmp_path).reader == "folders"
    (tmp_path / "labels.csv").write_text("file\na.wav\n")
    assert read_corpus(tmp_path).reader == "table"
    assert read_corpus(tmp_path, "folders").reader == "folders"
    (tmp_path / "db.yaml").touch()
    with pytest.raises(CorpusError, match="audformat"):
        read_corpus(tmp_path)
    (tmp_path / "data_info.csv").touch()
    with pytest.raises(CorpusError, match="data_info"):
        read_corpus(tmp_path)


def test_reader_out_of_the_tree(tmp_path, monkeypatch):
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab/__init__.py").touch()
    (tmp_path / "mylab/toy.py").write_text(
        "import pandas as pd\n"
        "from vbx.extract.corpus import Listing\n"
        "order = 1\n"
        "def recognises(root): return False\n"
        "def read(root, argument): return Listing(pd.DataFrame({'file': ['a.wav'], 'said': [argument]}))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    corpus = read_corpus(tmp_path, "mylab.toy:yes:no")
    assert (corpus.reader, corpus.labels["said"].tolist()) == ("mylab.toy", ["yes:no"])
    for name in ("mylab", "mylab.toy"):
        sys.modules.pop(name)


def test_name_is_that_of_the_folder(table, monkeypatch):
    folder = table("file\na.wav\n")
    assert read_corpus(folder).name == read_corpus(folder / "labels.csv").name == "corpus"
    assert read_corpus(folder, name="mine").name == "mine"
    monkeypatch.chdir(folder)
    corpus = read_corpus(".")
    assert corpus.name == "corpus" and corpus.root == folder.resolve()


def test_labels_are_indexed_by_id_and_splits_normal(table):
    corpus = read_corpus(table("emotion,file,Split\njoy,x/a.wav,Training\nsad,x/b.wav,DEVEL\n"))
    assert corpus.labels.index.tolist() == [u.id for u in corpus.utterances] == ["x/a.wav", "x/b.wav"]
    assert corpus.labels.to_dict("list") == {"split": ["train", "dev"], "emotion": ["joy", "sad"]}
    assert corpus.utterances[0].path == corpus.root / "x/a.wav"


@pytest.mark.parametrize("file", ["x/a.wav", "./x/a.wav", "x//a.wav", "x\\a.wav", "y/../x/a.wav", "{root}/x/a.wav"])
def test_a_path_has_one_spelling(table, file):
    folder = table("")
    (folder / "labels.csv").write_text(f"file\n{file.format(root=folder)}\n")
    assert read_corpus(folder).utterances[0].id == "x/a.wav"


def test_absolute_paths_through_a_link_to_the_corpus(table, tmp_path):
    folder = table("")
    (folder / "labels.csv").write_text(f"file\n{folder.resolve()}/a.wav\n{tmp_path / 'link'}/b.wav\n")
    (tmp_path / "link").symlink_to(folder)
    assert [u.id for u in read_corpus(tmp_path / "link").utterances] == ["a.wav", "b.wav"]


@pytest.mark.parametrize(
    "file",
    ["../a.wav", "x/../../a.wav", "/etc/passwd", "{root}/../a.wav", "{root}2/a.wav", "C:\\a.wav", "..", "{root}"],
)
def test_paths_outside_the_corpus(table, file):
    folder = table("")
    (folder / "labels.csv").write_text(f"file\n{file.format(root=folder)}\n")
    with pytest.raises(CorpusError, match="does not lie inside the corpus folder"):
        read_corpus(folder)


def test_name_that_is_not_utf8(tmp_path):
    (tmp_path / b"\xe4.wav".decode("utf-8", "surrogateescape")).touch()
    with pytest.raises(CorpusError, match="UTF-8"):
        read_corpus(tmp_path)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a.wav,x,1", "start of 'a.wav' is 'x'"),
        ("a.wav,0,nan", "end of 'a.wav' is 'nan'"),
        ("a.wav,0,inf", "end of 'a.wav' is 'inf'"),
        ("a.wav,-1,2", "from -1.0 s to 2.0 s"),
        ("a.wav,2,2", "from 2.0 s to 2.0 s"),
        ("a.wav,,0", "from 0.0 s to 0.0 s"),
    ],
)
def test_faulty_segments(table, row, words):
    with pytest.raises(CorpusError, match=words):
        read_corpus(table(f"file,start,end\nb.wav,0,1\n{row}\n"))


def test_rows_repeated_word_for_word_are_left_out(table):
    corpus = read_corpus(table("file,id,emotion\na.wav,1,joy\nb.wav,2,\na.wav,1,joy\nb.wav,2,\n"))
    assert [u.id for u in corpus.utterances] == ["a.wav", "b.wav"] == corpus.labels.index.tolist()
    assert corpus.notes[0] == "2 rows repeat another row word for word and are left out"


def test_rows_that_contradict_each_other(table):
    with pytest.raises(CorpusError, match=r"'a.wav' is listed more than once .*\(2 such rows\)"):
        read_corpus(table("file,emotion\na.wav,joy\nb.wav,sad\n./a.wav,sad\na.wav,\n"))


def test_a_segment_and_the_file_are_two_utterances(table):
    assert len(read_corpus(table("file,start,end,x\na.wav,,,1\na.wav,0,1,2\na.wav,1,,3\n")).utterances) == 3


def test_kinds_can_be_stated(table):
    folder = table("file,digit\na.wav,1\nb.wav,2\n")
    assert read_corpus(folder).schema["digit"].kind == "number"
    assert read_corpus(folder, labels={"digit": "class"}).schema["digit"].classes == ("1", "2")
    with pytest.raises(UnknownName, match="'digit'"):
        read_corpus(folder, labels={"digits": "class"})


def test_what_is_no_corpus(tmp_path, table):
    with pytest.raises(CorpusError, match="no such folder"):
        read_corpus(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match="looks like a corpus"):
        read_corpus(tmp_path)
    with pytest.raises(CorpusError, match="no utterance"):
        read_corpus(table("file,emotion\n"))
    with pytest.raises(UnknownName, match="did you mean 'table'"):
        read_corpus(tmp_path, "tabel")


@pytest.mark.parametrize(
    ("pack", "reader", "count"),
    [
        ("donateacry_88", "table", 88),
        ("emodb_4class", "table", 339),
        ("emogator_50", "table", 1500),
        ("formats", "folders", 18),
        ("fsdd_600", "table", 600),
        ("nemo_96_NC", "table", 96),
        ("speechocean762_train125", "table", 160),
    ],
)
def test_real_corpora(corpora, pack, reader, count):
    corpus = read_corpus(corpora / pack)
    assert (corpus.name, corpus.reader, len(corpus.utterances)) == (pack, reader, count)
    assert all(u.path.is_file() for u in corpus.utterances)
    assert set(corpus.schema) == set(corpus.labels.columns)
    if reader == "table":
        assert corpus.schema["sha1"].kind == "text" and corpus.schema["speaker"].kind == "text"
        assert set(corpus.labels["split"]) <= {"train", "dev", "test"}


def test_emodb(corpora):
    corpus = read_corpus(corpora / "emodb_4class")
    assert sorted(corpus.labels["speaker"].unique()) == "03 08 09 10 11 12 13 14 15 16".split()
    assert corpus.schema["emotion"].classes == ("anger", "happiness", "neutral", "sadness")
    assert corpus.schema["age"].kind == corpus.schema["natural_pct"].kind == "number"
    assert corpus.schema["country"].missing and corpus.labels["country"].isna().all()


def test_fsdd_digit(corpora):
    assert read_corpus(corpora / "fsdd_600").schema["digit"].kind == "number"
    classes = read_corpus(corpora / "fsdd_600", labels={"digit": "class"}).schema["digit"].classes
    assert classes == tuple("0123456789")


def test_same_corpus_from_its_file_names(corpora):
    named = read_corpus(
        corpora / "emodb_4class", r"folders:audio/(?P<speaker>\d\d)(?P<text_code>...)\w(?P<version>\w)\.wav"
    )
    listed = read_corpus(corpora / "emodb_4class").labels
    assert len(named.labels) == len(listed)
    for column in ("speaker", "text_code", "version"):
        assert named.labels[column].to_dict() == listed[column].to_dict()
