"""The arithmetic of a pack: wav2vec2 over clips laid end to end, none of which sees another.

The same functions run on a CPU, where they are tested against `SpeechEncoder`, and on a GPU. Nothing in them depends on
the values of a pack, only on its shape, so that they can be recorded once and replayed.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional

from vbx.extract.encoders._packed_attention import Attend, Segments
from vbx.extract.encoders._packed_layout import FIELDS, Shape
from vbx.extract.encoders._packed_weights import BLOCK, Block, Convolution, Linear, Norm, PackedWeights, Positions
from vbx.extract.encoders._windows import ConvStack

SLOTS = 8192
"""Hops of audio that are convolved at once: the first layers' output is 64 times as long as the last's."""
BLOCKS = 2048
"""Blocks of frames whose positions are computed at once, for the same reason."""


@dataclass(frozen=True)
class Wanted:
    """What is asked of a pack besides the sum of the last hidden states: sums of all layers, and the frames."""

    layers: bool = False
    frames: bool = False


@dataclass(frozen=True)
class Result:
    """What a pack gives.

    Attributes:
        sums: `(L, clips, D)` float64: over the frames that count of each clip, for the last hidden state, or for the
            input of each block and then the last hidden state
        frames: `(frames, D)` float16, or None: the last hidden state
    """

    sums: torch.Tensor
    frames: torch.Tensor | None


@dataclass(frozen=True)
class _Places:
    """Where everything of a pack is, on its device. Behind the last clip, places are valid and mean nothing.

    Attributes:
        table: `FIELDS` by clip, `(5, clips)`
        bounds: first frame of each clip and the number of frames, `(clips + 1,)`
        slots: first slot of each clip, `(clips + 1,)`
        blocks: first block of positions of each clip, `(clips + 1,)`
        owner: the clip of each frame, `(frames,)`
        inside: number of each frame in its clip, `(frames,)`
    """

    table: torch.Tensor
    bounds: torch.Tensor
    slots: torch.Tensor
    blocks: torch.Tensor
    owner: torch.Tensor
    inside: torch.Tensor


def run_pack(
    weights: PackedWeights, samples: torch.Tensor, segments: Segments, shape: Shape, wanted: Wanted, attend: Attend
) -> Result:
    """Encode a pack.

    Products are of `weights.dtype`; the residual stream, its norms and the last one are float32, sums float64.

    Args:
        weights: of the model
        samples: see `write_pack`, `(slots * hop + reach - hop,)`
        segments: its table and, where `attend` wants them, lengths of clips; `bounds` are not looked at
        shape: its shape
        wanted: what to give
        attend: attention within clips
    """
    places = _find_places(segments.table, shape, weights.stack)
    normal = _normalise(samples, places, weights.stack)
    slots = _convolve(weights, normal, shape)
    frames = slots[(places.slots[places.owner] + places.inside).clamp_(max=shape.slots - 1)]
    if weights.projection_norm is not None:
        frames = _norm(frames, weights.projection_norm)
    frames = _linear(frames, weights.projection)
    states = frames.to(torch.float32)
    states += functional.gelu(_positions(frames, places, weights.positions, shape))
    segments = Segments(segments.table, segments.lengths, places.bounds.to(torch.int32), shape.longest)
    sums = []
    for block in weights.blocks:
        if wanted.layers:
            sums.append(_sum(states, places))
        states = _run_block(states, block, weights.dtype, segments, attend)
    last = _norm(states, weights.last_norm)
    sums.append(_sum(last, places))
    return Result(torch.stack(sums), last.to(torch.float16) if wanted.frames else None)


def _find_places(table: torch.Tensor, shape: Shape, stack: ConvStack) -> _Places:
    counts = dict(zip(FIELDS, table.to(torch.int64), strict=True))
    bounds, slots, blocks = (
        functional.pad(sizes.cumsum(0), (1, 0))
        for sizes in (
            counts["frames"],
            (counts["samples"] + stack.hop - 1) // stack.hop,
            (counts["frames"] + BLOCK - 1) // BLOCK,
        )
    )
    numbers = torch.arange(shape.frames, device=table.device)
    owner = _owners(bounds, numbers)
    return _Places(table, bounds, slots, blocks, owner, numbers - bounds[owner])


def _owners(starts: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """The clip that each number falls into; the last place for clips where it falls behind all of them."""
    return torch.searchsorted(starts[1:], numbers, right=True).clamp_(max=len(starts) - 2)


def _normalise(samples: torch.Tensor, places: _Places, stack: ConvStack) -> torch.Tensor:
    """Samples with mean 0 and variance 1 in each clip, zeros between clips.

    As `Wav2Vec2FeatureExtractor`: `(x - mean) / sqrt(variance + 1e-7)`, the population variance. Sums are float64.
    """
    count = (len(samples) - (stack.reach - stack.hop)) // stack.hop
    rows = samples[: count * stack.hop].view(count, stack.hop)
    slot = torch.arange(count, device=samples.device)
    owner = _owners(places.slots, slot)
    length, normalised = places.table[0].to(torch.int64), places.table[4].to(torch.bool)
    left = length[owner] - (slot - places.slots[owner]) * stack.hop
    real = torch.arange(stack.hop, device=samples.device) < left[:, None]
    divisor = length.clamp(min=1)
    mean = _segment_sums(rows.sum(1, dtype=torch.float64), places.slots) / divisor
    mean = torch.where(normalised, 0.0, mean)
    # Zeros behind a clip are no samples of it.
    centred = torch.where(real, rows - mean[owner, None].to(torch.float32), 0.0)
    variance = _segment_sums(centred.square().sum(1, dtype=torch.float64), places.slots) / divisor
    scale = torch.where(normalised, 1.0, (variance + 1e-7).rsqrt())
    normal = torch.zeros_like(samples)
    torch.mul(centred, scale[owner, None].to(torch.float32), out=normal[: count * stack.hop].view(count, stack.hop))
    return normal


def _convolve(weights: PackedWeights, samples: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Rows of the last convolution, one a slot `(slots, C)`; a clip's frames are those of its first slots."""
    hop, reach = weights.stack.hop, weights.stack.reach
    parts = []
    for start in range(0, shape.slots, SLOTS):
        stop = min(start + SLOTS, shape.slots)
        rows = samples[start * hop : stop * hop + reach - hop, None].to(weights.dtype)
        for convolution in weights.convolutions:
            rows = _convolve_rows(rows, convolution)
        parts.append(rows)
    return torch.cat(parts)


def _convolve_rows(rows: torch.Tensor, convolution: Convolution) -> torch.Tensor:
    """A convolution of rows `(N, C)`, its norm and GELU.

    Rows side by side are a matrix already, without a copy, if a product takes no more rows than the stride; a longer
    kernel is a sum of such products. Of one channel, they are copied.
    """
    channels, stride = rows.shape[1], convolution.stride
    count = (len(rows) - convolution.kernel) // stride + 1
    step = convolution.kernel if channels == 1 else stride
    out = convolution.bias
    for first in range(0, convolution.kernel, step):
        width = min(step, convolution.kernel - first) * channels
        side = rows.as_strided((count, width), (stride * channels, 1), rows.storage_offset() + first * channels)
        side = side.contiguous() if width > stride * channels else side
        weight = convolution.weight[first * channels : first * channels + width]
        out = torch.addmm(out, side, weight) if first == 0 else out.addmm_(side, weight)
    return functional.gelu(_norm(out, convolution.norm))


def _positions(frames: torch.Tensor, places: _Places, positions: Positions, shape: Shape) -> torch.Tensor:
    """The positional convolution `(frames, D)`, each clip with zeros around it.

    A clip is cut into blocks of `BLOCK` frames. A row of the matrix holds all the frames that a block's frames see,
    zeros where that is outside of the clip; so one product a group of channels does, whatever the clips' lengths.
    """
    groups = len(positions.weight)
    grouped = frames.view(len(frames), groups, -1).transpose(0, 1)
    grouped = functional.pad(grouped, (0, 0, 0, 1))  # its last row is the zeros
    seen = torch.arange(positions.weight.shape[1] // grouped.shape[2], device=frames.device) - positions.before
    parts = []
    total = shape.frames // BLOCK + shape.clips
    for start in range(0, total, BLOCKS):
        block = torch.arange(start, min(start + BLOCKS, total), device=frames.device)
        owner = _owners(places.blocks, block)
        low, high = places.bounds[owner, None], places.bounds[owner + 1, None]
        at = low + ((block - places.blocks[owner]) * BLOCK)[:, None] + seen
        at = torch.where((at >= low) & (at < high), at, len(frames))
        side = grouped.index_select(1, at.flatten()).view(groups, len(block), -1)
        out = torch.baddbmm(positions.bias, side, positions.weight)
        parts.append(out.view(groups, len(block) * BLOCK, -1))
    made = torch.cat(parts, 1)
    at = (places.blocks[places.owner] * BLOCK + places.inside).clamp_(max=total * BLOCK - 1)
    return made.index_select(1, at).transpose(0, 1).flatten(1)


def _run_block(
    states: torch.Tensor, block: Block, dtype: torch.dtype, segments: Segments, attend: Attend
) -> torch.Tensor:
    """One block on `states` `(frames, D)` float32, which it overwrites; products are of `dtype`."""
    mixed = _linear(_norm(states, block.attention_norm).to(dtype), block.queries_keys_values)
    queries, keys, values = mixed.view(len(states), 3, block.heads, -1).unbind(1)
    states += _linear(attend(queries, keys, values, segments).flatten(1), block.attention_out)
    fed = functional.gelu(_linear(_norm(states, block.feed_norm).to(dtype), block.feed_in))
    states += _linear(fed, block.feed_out)
    return states


def _sum(states: torch.Tensor, places: _Places) -> torch.Tensor:
    """Sums `(clips, D)` over each clip's frames that count, in float64."""
    first, last = (places.bounds[:-1] + places.table[row] for row in (2, 3))
    edges = torch.stack([first, last], 1).flatten()
    return _segment_sums(states.to(torch.float64), edges)[::2]


def _segment_sums(rows: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Sums of the rows between one edge and the next, reading no others: what is not finite stays in its clip."""
    return torch.segment_reduce(rows, "sum", offsets=edges, axis=0, unsafe=True)


def _norm(rows: torch.Tensor, norm: Norm) -> torch.Tensor:
    return functional.layer_norm(rows, rows.shape[-1:], norm.weight, norm.bias, norm.epsilon)


def _linear(rows: torch.Tensor, linear: Linear) -> torch.Tensor:
    return functional.linear(rows, linear.weight, linear.bias)
