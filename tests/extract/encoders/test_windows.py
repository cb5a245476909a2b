import pytest
import torch
from torch import nn

from vbx.extract.encoders._windows import ConvStack, cut_windows

STACK = ConvStack((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))


def test_frames_are_those_of_convolutions() -> None:
    for kernels, strides in (((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)), ((7, 4), (3, 4)), ((5,), (2,))):
        stack = ConvStack(kernels, strides)
        layers = nn.Sequential(*(nn.Conv1d(1, 1, k, s) for k, s in zip(kernels, strides, strict=True)))
        for samples in range(stack.reach, stack.reach + 3 * stack.hop + 2, 7):
            assert stack.frames(samples) == layers(torch.zeros(1, 1, samples)).shape[-1]
        assert stack.frames(stack.reach) == 1 and stack.frames(stack.reach - 1) == stack.frames(1) == 0


def test_closed_form_of_wav2vec2() -> None:
    assert all(STACK.frames(n) == (n - 400) // 320 + 1 for n in range(400, 5000))
    samples = STACK.samples(3, 8)
    assert (samples.start, samples.stop) == (960, 960 + 4 * 320 + 400)
    assert STACK.frames(samples.stop - samples.start) == 5


@pytest.mark.parametrize(("length", "overlap"), [(10, 4), (10, 0), (10, 9), (7, 3), (1, 0), (1499, 100)])
def test_every_frame_counts_once_and_has_context(length: int, overlap: int) -> None:
    for frames in [*range(1, 60), 1499, 1500, 2899, 180_000]:
        windows = cut_windows(frames, length, overlap)
        assert [w.first for w in windows] == [0, *(w.last for w in windows[:-1])]
        assert windows[-1].last == frames
        assert all(w.start <= w.first < w.last <= w.stop for w in windows)
        assert all(w.stop - w.start == min(frames, length) for w in windows)
        # Inside, a frame that counts has half an overlap of neighbours on each side, rounded down.
        assert all(w.first - w.start >= overlap // 2 for w in windows[1:])
        assert all(w.stop - w.last >= overlap // 2 for w in windows[:-1])


def test_no_window_is_one_window() -> None:
    assert len(cut_windows(100_000, None, 0)) == 1


def test_overlap_that_leaves_nothing() -> None:
    with pytest.raises(ValueError, match="windows of 10 frames cannot overlap by 10"):
        cut_windows(100, 10, 10)
