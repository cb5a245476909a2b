"""Splits: names, disjointness, and that they are a function of their input alone."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbx.cache.splits import SHARES, SPLITS, count_overlap, groups_of, make_splits, normal_splits
from vbx.errors import CorpusError


def test_spellings_of_splits():
    frame = pd.DataFrame({"x": range(7), "SPLIT": ["Train", "val", "Devel", "TEST", "evaluation", None, " "]})
    normal = normal_splits(frame)
    assert list(normal) == ["split", "x"]
    assert normal["split"].tolist() == ["train", "dev", "dev", "test", "test", None, None]


def test_no_split_and_empty_split():
    frame = pd.DataFrame({"x": [1]})
    assert normal_splits(frame) is frame
    assert list(normal_splits(pd.DataFrame({"split": [None], "x": [1]}))) == ["x"]


def test_faulty_splits():
    with pytest.raises(CorpusError, match="'fold1'"):
        normal_splits(pd.DataFrame({"split": ["train", "fold1"]}))
    with pytest.raises(CorpusError, match="'Split' and 'split'"):
        normal_splits(pd.DataFrame({"Split": ["train"], "split": ["test"]}))


def test_groups_join_speakers_and_audio():
    # b and c share a recording, so their speakers belong together; the last two share it without any speaker.
    groups = groups_of(["a", "b", "c", "b", None, None], ["1", "2", "2", "3", "4", "4"])
    assert len(set(groups)) == 3
    assert groups[1] == groups[2] == groups[3] != groups[0]
    assert groups[4] == groups[5]


def test_a_speaker_and_a_recording_of_one_name_are_not_one():
    assert len(set(groups_of(["x", None], ["1", "x"]))) == 2


speakers = st.lists(
    st.tuples(st.sampled_from([None, *"abcdefgh"]), st.integers(0, 30).map(str)), min_size=1, max_size=60
)


@given(speakers)
@settings(max_examples=60, deadline=None)
def test_made_splits_are_disjoint_and_repeatable(rows):
    who, audio = [r[0] for r in rows], [r[1] for r in rows]
    splits, note = make_splits(who, audio)
    assert (splits, note) == make_splits(who, audio)
    assert set(splits) <= set(SPLITS)
    overlap = count_overlap(pd.DataFrame({"split": splits, "speaker": who}), audio)
    assert overlap["audio"] == 0
    if "audio only" not in note:
        assert overlap["speakers"] == 0
    assert "disjoint in" in note
    for split in SPLITS:
        assert f"{splits.count(split)} {split}" in note
    if len(set(audio)) >= 3 and "audio only" in note:
        assert set(splits) == set(SPLITS)
    if len(set(groups_of(who, audio))) >= 3:
        assert set(splits) == set(SPLITS)


def test_order_of_the_rows_does_not_matter():
    rng = np.random.default_rng(0)
    who = [f"s{i}" for i in rng.integers(0, 25, 300)]
    audio = [str(i) for i in range(300)]
    order = rng.permutation(300)
    splits = dict(zip(audio, make_splits(who, audio)[0], strict=True))
    shuffled = make_splits([who[i] for i in order], [audio[i] for i in order])[0]
    assert shuffled == [splits[audio[i]] for i in order]


def test_shares_are_kept_where_groups_are_small():
    who = [f"s{i % 100}" for i in range(2000)]
    splits, _ = make_splits(who, [str(i) for i in range(2000)])
    for split, share in SHARES.items():
        assert splits.count(split) / 2000 == pytest.approx(share, abs=0.015)


def test_three_large_speakers_fill_three_splits():
    who = ["a"] * 80 + ["b"] * 15 + ["c"] * 5
    splits, note = make_splits(who, [str(i) for i in range(100)])
    assert {w: s for w, s in zip(who, splits, strict=True)} == {"a": "train", "b": "dev", "c": "test"}
    assert note == "split made by vbx, disjoint in speakers and audio: 80 train, 15 dev, 5 test"


def test_too_few_speakers_are_told():
    splits, note = make_splits(["a"] * 10 + ["b"] * 10, [str(i) for i in range(20)])
    assert "2 separate speakers are too few for 3 splits" in note and set(splits) == set(SPLITS)
    assert "names no speakers" in make_splits([None] * 6, list("abcdef"))[1]


def test_what_was_dealt_before_stays():
    who, audio = [f"s{i % 40}" for i in range(200)], [str(i) for i in range(200)]
    before = make_splits(who, audio)[0]
    # A second delivery: twenty new speakers, and new recordings of the known ones.
    who, audio = [*who, *(f"s{i % 60}" for i in range(300))], [str(i) for i in range(500)]
    after = make_splits(who, audio, known=dict(zip(audio, before, strict=False)))[0]
    assert after[:200] == before
    assert count_overlap(pd.DataFrame({"split": after, "speaker": who}), audio)["speakers"] == 0
    assert set(after[200:]) == set(SPLITS)


def test_overlap_is_counted():
    labels = pd.DataFrame({"split": ["train", "test", "dev", "train", None], "speaker": ["a", "a", "b", "c", "c"]})
    assert count_overlap(labels, ["1", "2", "3", "3", "3"]) == {"speakers": 1, "audio": 1}
    assert count_overlap(labels[["split"]], ["1", "2", "3", "3", "3"]) == {"speakers": 0, "audio": 1}
