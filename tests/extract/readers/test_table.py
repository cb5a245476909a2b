"""The table reader: formats, spellings of columns, and what is wrong with a table, by file and line."""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vbx.errors import CorpusError
from vbx.extract.corpus import read_corpus
from vbx.extract.readers import table

ROWS = "file,speaker,country,age\na.wav,03,NA,31\nb.wav,NA,NaN,\n"


def test_cells_stay_text(tmp_path):
    (tmp_path / "labels.csv").write_text(ROWS)
    frame = table.read(tmp_path, None).frame
    assert frame["speaker"].tolist() == ["03", "NA"]
    assert frame["country"].tolist() == ["NA", "NaN"]
    assert frame["age"].tolist() == ["31", None]


@pytest.mark.parametrize("separator", [",", "\t", ";"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_marks_and_line_ends(tmp_path, separator, mark, end):
    text = mark + ROWS.replace(",", separator).replace("\n", end)
    (tmp_path / "labels.csv").write_bytes(text.encode())
    frame = table.read(tmp_path, None).frame
    assert list(frame.columns) == ["file", "speaker", "country", "age"]
    assert frame["file"].tolist() == ["a.wav", "b.wav"]


def test_same_table_from_every_format(tmp_path):
    values = {"file": ["a.wav", "b.wav"], "speaker": ["03", "08"], "age": [31, None], "arousal": [0.25, 0.5]}
    (tmp_path / "t.csv").write_text("file,speaker,age,arousal\na.wav,03,31,0.25\nb.wav,08,,0.5\n")
    (tmp_path / "t.tsv").write_text("file\tspeaker\tage\tarousal\na.wav\t03\t31\t0.25\nb.wav\t08\t\t0.5\n")
    pq.write_table(pa.table(values), tmp_path / "t.parquet")
    rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    lines = "\n\n".join(json.dumps({k: v for k, v in row.items() if v is not None}) for row in rows)
    (tmp_path / "t.jsonl").write_text(lines + "\n")
    (tmp_path / "t.ndjson").write_text(lines)
    first = read_corpus(tmp_path / "t.csv")
    assert first.labels["age"].iloc[0] == 31 and first.labels["age"].isna().iloc[1]
    for suffix in ("tsv", "parquet", "jsonl", "ndjson"):
        other = read_corpus(tmp_path, f"table:t.{suffix}")
        pd.testing.assert_frame_equal(other.labels, first.labels)
        assert other.schema == first.schema


def test_large_integers_with_a_gap_survive_parquet(tmp_path):
    numbers = [2**60 + 1, None]
    pq.write_table(pa.table({"file": ["a.wav", "b.wav"], "speaker": numbers}), tmp_path / "labels.parquet")
    assert read_corpus(tmp_path).labels["speaker"].tolist() == [str(2**60 + 1), None]


@pytest.mark.parametrize(
    "name", ["path", "File", "file_name", "File Path", "filename", "audio", "wav", "audio_filepath"]
)
def test_spellings_of_the_file_column(tmp_path, name):
    (tmp_path / "labels.csv").write_text(f"{name},Speaker,Split\na.wav,1,Train\n")
    corpus = read_corpus(tmp_path)
    assert corpus.utterances[0].id == "a.wav"
    assert corpus.labels.loc["a.wav"].to_dict() == {"split": "train", "speaker": "1"}


def test_first_spelling_counts_and_the_others_are_labels(tmp_path):
    (tmp_path / "labels.csv").write_text("audio,Path,speaker_id,speaker\nx,a.wav,1,2\n")
    frame = table.read(tmp_path, None).frame
    assert frame.iloc[0].to_dict() == {"audio": "x", "file": "a.wav", "speaker_id": "1", "speaker": "2"}
    (tmp_path / "labels.csv").write_text("File,file\nx,a.wav\n")
    assert table.read(tmp_path, None).frame.iloc[0].to_dict() == {"File": "x", "file": "a.wav"}


def test_segments_in_seconds(tmp_path):
    (tmp_path / "labels.csv").write_text("file,start,end\na.wav,,1.5\na.wav,1.5,\na.wav,,\n")
    utterances = read_corpus(tmp_path).utterances
    assert [(u.id, u.start_s, u.end_s) for u in utterances] == [
        ("a.wav#0.000-1.500", 0.0, 1.5),
        ("a.wav#1.500-", 1.5, None),
        ("a.wav", 0.0, None),
    ]


def test_order_of_the_usual_names(tmp_path):
    for name in reversed(table.FOUND):
        (tmp_path / name).write_text("file\na.wav\n")
        assert table._find_table(tmp_path, None).name == name
    assert table.FOUND[0] == "labels.csv"


def test_recognises_tables_and_their_folders(tmp_path):
    assert not table.recognises(tmp_path)
    (tmp_path / "files.csv").write_text("file\na.wav\n")
    assert not table.recognises(tmp_path)
    assert table.recognises(tmp_path / "files.csv")
    (tmp_path / "corpus.tsv").write_text("file\na.wav\n")
    assert table.recognises(tmp_path)


def test_table_in_a_subfolder_is_relative_to_the_corpus(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/fold1.csv").write_text("file\naudio/a.wav\n")
    corpus = read_corpus(tmp_path, "table:labels/fold1.csv")
    assert corpus.utterances[0].path == tmp_path / "audio/a.wav"


def test_blank_lines_unnamed_columns_and_quotes(tmp_path):
    (tmp_path / "labels.csv").write_text(',file,text\n\n0,a.wav,"one, ""two""\nthree"\n,,\n1,b.wav,four\n')
    frame = table.read(tmp_path, None).frame
    assert frame["column_1"].tolist() == ["0", "1"]
    assert frame["text"].tolist() == ['one, "two"\nthree', "four"]


def test_lists_and_bytes_are_left_out_and_told(tmp_path):
    columns = {"file": ["a.wav"], "words": [["a", "b"]], "raw": [b"\0"], "emotion": ["joy"]}
    pq.write_table(pa.table(columns), tmp_path / "labels.parquet")
    listing = table.read(tmp_path, None)
    assert list(listing.frame.columns) == ["file", "emotion"]
    assert "words, raw" in listing.notes[0]
    (tmp_path / "t.jsonl").write_text('{"file": "a.wav", "words": ["a"], "who": {"age": 3}}\n')
    listing = table.read(tmp_path, "t.jsonl")
    assert list(listing.frame.columns) == ["file"] and "words, who" in listing.notes[0]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("labels.csv", b"file,x\na.wav,1\nb.wav\n", ["line 3", "labels.csv", "1 cells", "2"]),
        ("labels.csv", b'file,x\n"a\nb.wav",1\nb.wav,1,2\n', ["line 4", "3 cells"]),
        ("labels.csv", b'file,x\na.wav,"open\nb.wav,1\n', ["labels.csv", "quotation mark"]),
        ("labels.csv", b"", ["labels.csv", "no columns"]),
        ("labels.csv", b"file,x,x\na.wav,1,2\n", ["'x'", "labels.csv"]),
        ("labels.csv", b"clip,emotion\na.wav,joy\n", ["'clip', 'emotion'", "'file'"]),
        ("labels.csv", b"file,x\na.wav,1\n,1\n", ["line 3", "names no file"]),
        ("labels.csv", "file,x\na.wav,1\nb.wav,ä\n".encode("latin1"), ["line 3", "0xe4", "UTF-8"]),
        ("labels.csv", "file,x\na.wav,1\n".encode("utf-16"), ["UTF-16", "iconv -f utf-16"]),
        ("labels.jsonl", b'{"file": "a.wav"}\n{"file": \n', ["line 2", "JSON"]),
        ("labels.jsonl", b'{"file": "a.wav"}\n\n[1]\n', ["line 3", "object"]),
        ("labels.jsonl", b'{"file": "a.wav"}\n{"x": 1}\n', ["line 2", "names no file"]),
        ("labels.parquet", b"PAR1 not at all", ["labels.parquet", "Parquet"]),
    ],
)
def test_what_is_wrong_is_told_by_file_and_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError) as caught:
        read_corpus(tmp_path)
    assert all(word in str(caught.value) for word in words), caught.value


def test_row_of_parquet_without_file(tmp_path):
    pq.write_table(pa.table({"file": ["a.wav", None]}), tmp_path / "labels.parquet")
    with pytest.raises(CorpusError, match="row 2"):
        table.read(tmp_path, None)


def test_no_such_table(tmp_path):
    with pytest.raises(CorpusError, match="no table"):
        table.read(tmp_path, None)
    (tmp_path / "labels.xlsx").write_bytes(b"")
    with pytest.raises(CorpusError, match=r"reads \.csv"):
        table.read(tmp_path, "labels.xlsx")


def test_ten_thousand_columns(tmp_path):
    names = [f"c{i}" for i in range(10_000)]
    lines = [",".join(["file", *names]), *(",".join([f"{r}.wav", *map(str, range(10_000))]) for r in range(3))]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    frame = table.read(tmp_path, None).frame
    assert frame.shape == (3, 10_001) and frame["c9999"].tolist() == ["9999"] * 3
