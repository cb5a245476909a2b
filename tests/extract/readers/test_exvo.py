"""The ExVo reader against small releases made here."""

import csv

import pytest

from vbx.errors import CorpusError
from vbx.extract.corpus import read_corpus
from vbx.extract.readers import exvo

COLUMNS = ["File_ID", "Split", "Subject_ID", "Country", "Country_string", "Age", *exvo.EMOTIONS]
ROWS = [
    ["[58712]", "Train", "Speaker_7", "1", "China", "31.5", *(f"0.{i}" for i in range(10))],
    ["[587]", "Val", "Speaker_8", "0", "United States", "22", *["1"] * 10],
    ["[00012]", "Test", *[""] * 14],
]


@pytest.fixture
def release(tmp_path):
    """Write a release, its audio in `folder`."""

    def write(columns=COLUMNS, rows=ROWS, folder="wav"):
        with open(tmp_path / "data_info.csv", "w", newline="") as file:
            csv.writer(file).writerows([columns, *rows])
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in ("58712", "587", "00012", "5871"):
            (tmp_path / folder / f"{name}.wav").touch()
        return tmp_path

    return write


@pytest.mark.parametrize("folder", ["wav", "audio", "."])
def test_release(release, folder):
    corpus = read_corpus(release(folder=folder))
    prefix = "" if folder == "." else folder + "/"
    assert corpus.reader == "exvo"
    assert [u.id for u in corpus.utterances] == [prefix + name for name in ("58712.wav", "587.wav", "00012.wav")]
    assert all(u.path.is_file() for u in corpus.utterances)
    assert list(corpus.labels) == ["split", "speaker", "Country", "Age", *exvo.EMOTIONS]
    first, second, third = (row for _, row in corpus.labels.iterrows())
    assert (first["split"], second["split"], third["split"]) == ("train", "dev", "test")
    assert (first["speaker"], first["Country"], first["Age"]) == ("Speaker_7", "China", 31.5)
    assert first[list(exvo.EMOTIONS)].tolist() == [i / 10 for i in range(10)]
    assert third.drop("split").isna().all()
    assert corpus.schema["Country"].classes == ("China", "United States")
    assert corpus.schema["Age"].unit == "years" and corpus.schema["Age"].low == 22
    assert all((corpus.schema[e].low, corpus.schema[e].high) == (0, 1) for e in exvo.EMOTIONS)
    assert "59,201" in corpus.notes[0] and "3" in corpus.notes[0]


def test_order_of_the_emotions_is_that_of_the_release():
    assert exvo.EMOTIONS[0] == "Awe" and exvo.EMOTIONS[4] == "Fear" and exvo.EMOTIONS[9] == "Surprise"
    assert len(set(exvo.EMOTIONS)) == 10


def test_columns_are_found_by_name_whatever_their_case_and_order(release):
    order = list(reversed(range(len(COLUMNS))))
    columns = [COLUMNS[i].upper() for i in order]
    shuffled = read_corpus(release(columns, [[row[i] for i in order] for row in ROWS])).labels
    assert shuffled.equals(read_corpus(release()).labels)


def test_numbers_of_countries_alone_are_classes(release):
    keep = [i for i, name in enumerate(COLUMNS) if name != "Country_string"]
    corpus = read_corpus(release([COLUMNS[i] for i in keep], [[row[i] for i in keep] for row in ROWS]))
    assert corpus.schema["Country"].classes == ("0", "1")
    assert corpus.labels["Country"].tolist() == ["1", "0", None]


def test_names_of_countries_alone(release):
    keep = [i for i, name in enumerate(COLUMNS) if name != "Country"]
    corpus = read_corpus(release([COLUMNS[i] for i in keep], [[row[i] for i in keep] for row in ROWS]))
    assert corpus.schema["Country"].classes == ("China", "United States")


@pytest.mark.parametrize("pair", [("1", "South Africa"), ("2", "China")])
def test_countries_that_contradict_each_other(release, pair):
    extra = ["[5871]", "Train", "Speaker_9", *pair, *ROWS[0][5:]]
    with pytest.raises(CorpusError, match="one to one") as caught:
        read_corpus(release(rows=[*ROWS, extra]))
    assert "China" in str(caught.value)


def test_missing_columns_are_named(release):
    columns = [name for name in COLUMNS if name not in ("Age", "Horror", "Country", "Country_string")]
    with pytest.raises(CorpusError, match="lacks the columns Age, Horror, Country of"):
        read_corpus(release(columns, []))


def test_column_twice_but_for_its_case(release):
    with pytest.raises(CorpusError, match="'awe'"):
        read_corpus(release([*COLUMNS, "AWE"], [[*row, ""] for row in ROWS]))


@pytest.mark.parametrize("value", ["1.5", "-0.1"])
def test_emotions_lie_between_0_and_1(release, value):
    rows = [[*ROWS[0][:-1], value], *ROWS[1:]]
    with pytest.raises(CorpusError, match=r"Surprise.*58712.*0 to 1"):
        read_corpus(release(rows=rows))


def test_row_without_an_id(release):
    with pytest.raises(CorpusError, match="line 3 .*File_ID"):
        read_corpus(release(rows=[ROWS[0], ["[]", *ROWS[1][1:]]]))


def test_labels_without_audio_are_read_and_told(release):
    root = release(folder="elsewhere")
    corpus = read_corpus(root)
    assert any("none of the 3 files" in note for note in corpus.notes)
    assert corpus.utterances[0].id == "wav/58712.wav"


def test_empty_table_argument_and_wrong_folder(release, tmp_path):
    with pytest.raises(CorpusError, match="no utterance"):
        read_corpus(release(rows=[]))
    with pytest.raises(CorpusError, match="no argument"):
        read_corpus(release(), "exvo:wav")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="data_info.csv"):
        read_corpus(tmp_path / "empty", "exvo")


def test_root_may_be_the_table_itself(release):
    root = release()
    assert exvo.recognises(root / "data_info.csv") and not exvo.recognises(root / "wav")
    assert len(read_corpus(root / "data_info.csv").utterances) == 3
