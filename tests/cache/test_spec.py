"""Keys: what counts, what does not, and that a changed key is a decision."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbx.cache.feature import list_encoders, list_features, read_feature
from vbx.cache.spec import EncoderSpec
from vbx.errors import CacheError, UnknownName

GOLDEN = Path(__file__).parents[1] / "golden" / "keys.json"
SPEC = list_encoders()["w2v2-R"]
OTHER = {str: "other", int: 7, float: 7.5}


def test_keys_of_the_catalogue_are_those_of_the_golden_file() -> None:
    """A key that changes makes every user extract again: it must be a decision, made by editing the golden file."""
    keys = {name: spec.key for name, spec in list_encoders().items()}
    assert keys == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("name", [f.name for f in fields(EncoderSpec)])
def test_every_field_counts_towards_the_key(name: str) -> None:
    value = getattr(SPEC, name)
    changed = replace(SPEC, **{name: OTHER.get(type(value), "other")})
    assert changed.key != SPEC.key
    assert changed.folder != SPEC.folder
    assert list(SPEC.difference(changed)) == [name]


@given(st.text(), st.integers(1, 9), st.none() | st.text())
def test_a_spec_comes_back_from_json(model: str, code: int, weights: str | None) -> None:
    spec = EncoderSpec("onnx", model, code=code, weights=weights)
    assert EncoderSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_a_field_of_the_future_is_refused() -> None:
    with pytest.raises(CacheError, match="tempo"):
        EncoderSpec.from_json({**SPEC.to_json(), "tempo": 2})


def test_the_onnx_release_answers_for_its_model_and_nothing_else() -> None:
    template = list_encoders()["w2v2-R-emotion"]
    onnx = EncoderSpec("onnx", template.model, weights="abc")
    assert onnx.answers(template)
    assert not onnx.answers(list_encoders()["w2v2-R-emotion-norm"])
    assert not onnx.answers(list_encoders()["w2v2-R"])
    assert not replace(template, code=2).answers(template)


def test_every_feature_of_the_catalogue_resolves() -> None:
    for entry in list_features():
        (part,) = read_feature(entry["feature"]).parts
        assert part.outputs == tuple(entry["outputs"])
        assert entry["licence"] and entry["source"] and entry["about"]


def test_names_beyond_the_catalogue() -> None:
    (hf,) = read_feature("hf:org/name@v1@layers").parts
    assert (hf.spec.model, hf.spec.revision, hf.outputs) == ("org/name", "v1", ("layers",))
    (onnx,) = read_feature("onnx:some/folder/model.onnx").parts
    assert (onnx.spec.encoder, onnx.spec.model, onnx.outputs) == ("onnx", "model.onnx", ())
    (dotted,) = read_feature("mylab.hubert:big").parts
    assert (dotted.spec.encoder, dotted.spec.model) == ("mylab.hubert", "big")
    assert read_feature("egemaps#3f9c").parts[0].key == "3f9c"
    assert len(read_feature("egemaps+compare").parts) == 2
    with pytest.raises(UnknownName, match="did you mean 'egemaps'"):
        read_feature("egemap")
