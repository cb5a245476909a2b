import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbx.extract.encoders._packed_layout import Clip, Shape, fill_packs, pack_shape, write_pack
from vbx.extract.encoders._windows import ConvStack

STACK = ConvStack((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))


def make_clips(samples: list[int]) -> list[Clip]:
    return [
        Clip(row, np.broadcast_to(np.float32(row + 1), n), STACK.frames(n), 0, STACK.frames(n), bool(row % 2))
        for row, n in enumerate(samples)
    ]


@given(st.lists(st.integers(400, 40000), min_size=1, max_size=200), st.integers(20, 200))
def test_every_clip_is_in_one_pack_and_every_pack_fits(samples: list[int], frames: int) -> None:
    room = Shape(frames, 64, frames)
    clips = make_clips(samples)
    packs = list(fill_packs(clips, lambda: room))
    assert [clip.row for pack in packs for clip in pack] == list(range(len(clips)))
    for pack, after in zip(packs, [*packs[1:], None], strict=True):
        taken = sum(clip.frames for clip in pack)
        assert (taken <= frames and len(pack) <= 64) or len(pack) == 1
        if after:  # as full as it could be
            assert taken + after[0].frames > frames or len(pack) == 64
        shape = pack_shape(pack, room)
        assert shape.frames >= taken and shape.clips >= len(pack) and shape.longest >= max(c.frames for c in pack)
        assert sum(-(-len(clip.samples) // STACK.hop) for clip in pack) <= shape.slots


def test_packs_shrink_when_there_is_less_room() -> None:
    clips, rooms = make_clips([32080] * 12), [Shape(400, 64, 400)]
    packs = fill_packs(clips, lambda: rooms[-1])
    assert len(next(packs)) == 4
    rooms.append(Shape(200, 64, 200))
    assert [len(pack) for pack in packs] == [2, 2, 2, 2]


def test_full_packs_of_similar_clips_have_one_shape() -> None:
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(1.97), 0.5, 20000), 0.1, 30)
    room = Shape(32768, 2048, 32768)
    packs = list(fill_packs(make_clips((16000 * lengths).astype(int).tolist()), lambda: room))
    shapes = [pack_shape(pack, room) for pack in packs[:-1]]
    assert {shape.clips for shape in shapes} == {512} and {shape.frames for shape in shapes} == {32768}
    assert len(set(shapes)) <= 3
    taken = sum(clip.frames for pack in packs[:-1] for clip in pack)
    assert taken > 0.99 * sum(shape.frames for shape in shapes)


@pytest.mark.parametrize("samples", [[400], [719, 720, 400, 32100], [1039, 1040]])
def test_clips_begin_on_slots_with_zeros_between(samples: list[int]) -> None:
    clips = make_clips(samples)
    shape = pack_shape(clips, Shape(512, 64, 512))
    array = np.full(shape.slots * 320 + 80, 7, np.float32)
    table = np.full((5, shape.clips), 7, np.int32)
    write_pack(clips, STACK, array, table)
    start = 0
    for clip, column in zip(clips, table.T, strict=False):
        count = len(clip.samples)
        assert (array[start : start + count] == clip.samples).all()
        stop = start + -(-count // 320) * 320
        assert not array[start + count : stop].any()
        assert column.tolist() == [count, clip.frames, 0, clip.frames, clip.normalised]
        start = stop
    assert not array[start:].any() and not table[:, len(clips) :].any()
