"""Kinds of label columns: what is guessed, what is stated, what does not fit."""

import json

import numpy as np
import pandas as pd
import pytest

from vbx.cache.schema import Column, infer_columns
from vbx.errors import CorpusError, UnknownName


def infer(values, name="x", **options):
    frame, schema = infer_columns(pd.DataFrame({name: pd.Series(values, dtype=object)}), **options)
    return frame[name], schema[name]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "2.5", "-3e2"], "number"),
        ([1, 2, None], "number"),
        ([1.0, np.nan], "number"),
        (["1", "nan", "NaN"], "number"),
        (["0", "0.5", "-0.5"], "number"),
        (["01", "2"], "class"),
        (["-07", "2"], "class"),
        (["1", "inf"], "class"),
        (["a", "b", "a"], "class"),
        (["nan", "nan"], "class"),
        ([True, False], "class"),
        (["1,5", "2"], "class"),
        ([None, "", "  "], "text"),
        ([f"sentence {i}" for i in range(60)], "text"),
        ([f"class {i % 20}" for i in range(30)], "class"),
        ([f"word {i % 40}" for i in range(120)], "class"),
        ([f"word {i % 41}" for i in range(120)], "text"),
    ],
)
def test_guesses(values, kind):
    assert infer(values)[1].kind == kind


def test_speakers_are_names():
    values, column = infer(["03", 4, None, 5.0], "speaker")
    assert values.tolist() == ["03", "4", None, "5"] and column == Column("text", missing=True)


def test_numbers_are_floats_and_their_range_is_noted():
    values, column = infer([" 31 ", "-2.5", None, "nan"])
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, [31, -2.5, np.nan, np.nan])
    assert column == Column("number", low=-2.5, high=31.0, missing=True)


def test_classes_are_stripped_and_sorted():
    values, column = infer(["b ", "a", "", 3, 3.0, 0.5])
    assert values.tolist() == ["b", "a", None, "3", "3", "0.5"]
    assert column == Column("class", classes=("0.5", "3", "a", "b"), missing=True)


def test_what_is_stated_comes_before_the_guess():
    known = {"x": Column("class", classes=("1", "2", "3"))}
    assert infer(["1", "2"], known=known)[1].classes == ("1", "2", "3")
    with pytest.raises(CorpusError, match="'4'.*--label x:class"):
        infer(["1", "4"], known=known)
    assert infer(["1", "4"], known=known, override={"x": "class"})[1].classes == ("1", "4")


def test_stated_limits_and_units():
    known = {"x": Column("number", low=0.0, high=1.0, unit="1")}
    assert infer(["0.2", None], known=known)[1] == Column("number", low=0.0, high=1.0, unit="1", missing=True)
    with pytest.raises(CorpusError, match=r"1.5, and the corpus itself allows 0 to 1.*--label x:number"):
        infer(["0.2", "1.5"], known=known)
    assert infer(["1.5"], known=known, override={"x": "number"})[1].high == 1.5
    assert infer(["20", "30"], known={"x": Column("number", unit="years")})[1] == Column(
        "number", low=20, high=30, unit="years"
    )


def test_column_without_values():
    assert infer([None, ""], override={"x": "number"})[1] == Column("number", missing=True)
    assert infer([None], known={"x": Column("class", classes=("a",))})[1] == Column("class", ("a",), missing=True)


def test_values_that_are_no_numbers_are_named():
    frame = pd.DataFrame({"age": ["31", "old"]}, index=["a.wav", "b.wav"])
    with pytest.raises(CorpusError, match="'age' of 'b.wav' is 'old'"):
        infer_columns(frame, override={"age": "number"})
    with pytest.raises(CorpusError, match="'inf'"):
        infer(["1", "inf"], override={"x": "number"})


def test_unknown_column_and_kind():
    with pytest.raises(UnknownName, match="did you mean 'emotion'"):
        infer(["a"], "emotion", override={"emotoin": "class"})
    with pytest.raises(UnknownName, match="did you mean 'class'"):
        infer(["a"], override={"x": "clas"})


def test_index_and_order_are_kept():
    frame = pd.DataFrame({"b": ["1"], "a": ["x"]}, index=pd.Index(["u"], name="id"))
    typed, schema = infer_columns(frame)
    assert list(typed) == list(schema) == ["b", "a"] and typed.index.equals(frame.index)


@pytest.mark.parametrize(
    "column",
    [
        Column("class", classes=("a", "b"), missing=True),
        Column("number", low=0.0, high=1.0, unit="years"),
        Column("number", low=-1.0, high=0.0),
        Column("text"),
    ],
)
def test_json_and_back(column):
    assert Column.from_json(json.loads(json.dumps(column.to_json()))) == column


def test_json_holds_only_what_is_set():
    assert Column("text").to_json() == {"kind": "text"}
