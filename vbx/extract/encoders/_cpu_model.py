"""The wav2vec2 family on a CPU: the same arithmetic as transformers' modules, without what they do in vain.

Frames are rows from the first convolution to the last block, so nothing is transposed for a norm; a convolution is one
product over windows of rows, some seconds at a time; the weight norm is folded; GELU is part of the product before it.
oneDNN makes machine code for each number of rows that it meets, so numbers of rows are rounded up.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from vbx.extract.encoders._onednn import Convolution, Product
from vbx.extract.encoders._speech_models import SpeechModel
from vbx.extract.encoders._windows import ConvStack

TILE = 100
"""Frames whose convolutions are done at once: what is between two of them stays near the cache."""
FEW, MANY = 5, 32
"""Frames are rounded up to a multiple of these, in convolutions and behind them."""
SHORT, PART = 25, 128
"""The mean of a clip of so few frames (0.5 s) hides little rounding: in float32 its convolutions are summed in parts of
so many terms, which is a third slower: 1.5e-6 from transformers for a clip of one frame rather than 2.2e-6."""
GELUS = ("gelu",)
"""Activations of a config that are the exact GELU."""


class CpuModel:
    """Hidden states of a wav2vec2, HuBERT or WavLM model that is `supported`.

    Each clip is convolved and attends by itself; what treats frames one by one sees those of all clips at once. In
    float32 a clip's states are the same bits alone and beside any others (on the CPUs that were tried).

    Args:
        model: where the weights are; they are copied
        dtype: of matrix products; the residual stream, sums and the transformer's norms are float32
    """

    def __init__(self, model: SpeechModel, dtype: torch.dtype) -> None:
        convolutions: Any = model.convolutions
        transformer: Any = model.transformer
        self.dtype, self.stack = dtype, model.stack
        self.fronts = [_Front(layer, dtype) for layer in convolutions.conv_layers]
        self.time_norm = self.fronts[0].time_norm is not None
        self.rest = ConvStack(model.stack.kernels[1:], model.stack.strides[1:])
        self.projection_norm = _layer_norm(getattr(model.projection, "layer_norm", None), dtype)
        self.projection = _product(model.projection.projection, dtype)
        self.positions = Convolution(transformer.pos_conv_embed.conv, dtype)
        self.stable = bool(transformer.config.do_stable_layer_norm)
        self.norm = _layer_norm(transformer.layer_norm, torch.float32)
        self.bias = getattr(model.blocks[0].attention, "compute_bias", None)
        self.blocks = [_Block(block, self.stable, dtype) for block in model.blocks]

    def states(self, waves: Sequence[torch.Tensor], layers: bool) -> list[list[torch.Tensor]]:
        """For each clip `(T,)` its hidden states `(F, D)`: the last one; or the input of each block, then the last."""
        clips = [self._frames(wave) for wave in waves]
        counts = [len(clip) for clip in clips]
        biases = [None if self.bias is None else self.bias(count, count) for count in counts]
        states = functional.pad(torch.cat(clips), (0, 0, 0, -sum(counts) % MANY))
        if not self.stable:
            states = self.norm(states)
        inputs = []
        for block in self.blocks:
            if layers:
                inputs.append(states)
            states = block(states, counts, biases)
        last = self.norm(states) if self.stable else states
        split = [torch.split(state[: sum(counts)], counts) for state in (*inputs, last)]
        return [list(of_clip) for of_clip in zip(*split, strict=True)]

    def _frames(self, wave: torch.Tensor) -> torch.Tensor:
        """The input of the transformer `(F, D)`, before any norm of its own."""
        count = self.stack.frames(len(wave))
        in_parts = count <= SHORT
        rows, fronts, stack = wave[:, None], self.fronts, self.stack
        if self.time_norm:
            rows, fronts, stack = self._first(wave, in_parts), self.fronts[1:], self.rest
        tiles = []
        for start in range(0, count, TILE):
            stop = min(start + TILE, count)
            where = stack.samples(start, start + math.ceil((stop - start) / FEW) * FEW)
            tile = rows[where]
            tile = functional.pad(tile, (0, 0, 0, where.stop - where.start - len(tile)))
            for front in fronts:
                tile = front(tile, in_parts)
            tiles.append(tile[: stop - start])
        rows = functional.pad(torch.cat(tiles), (0, 0, 0, -count % MANY))
        frames = self.projection(self.projection_norm(rows))
        frames[count:] = 0  # as the zeros around a clip
        return frames[:count].float() + self.positions(frames)[:count]

    def _first(self, wave: torch.Tensor, in_parts: bool) -> torch.Tensor:
        """The first convolution of a clip, all of it: its norm over time sees what is behind the last frame, too."""
        front = self.fronts[0]
        true = (len(wave) - front.kernel) // front.stride + 1
        samples = self.stack.samples(0, math.ceil((self.stack.frames(len(wave)) + 1) / FEW) * FEW)
        return front(functional.pad(wave, (0, samples.stop - len(wave)))[:, None], in_parts, true)


def supported(model: SpeechModel) -> bool:
    """Whether `CpuModel` knows all that a model does."""
    config: Any = model.transformer.config
    activations = (config.hidden_act, config.feat_extract_activation)
    adapters = any(getattr(block, "adapter_layer", None) is not None for block in model.blocks)
    return model.paddable and all(a in GELUS for a in activations) and not adapters


class _Front:
    """One of the strided convolutions in front, as a product over windows of rows `(T, C)`; its norm and GELU."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        norm = getattr(layer, "layer_norm", None)
        self.time_norm = norm if isinstance(norm, nn.GroupNorm) else None
        self.norm, self.normed = _layer_norm(None if self.time_norm else norm, dtype), norm is not None
        self.kernel, self.stride = layer.conv.kernel_size[0], layer.conv.stride[0]
        self.dtype = dtype
        weight = layer.conv.weight.permute(0, 2, 1).flatten(1)
        self.product = Product(weight, layer.conv.bias, dtype, gelu=norm is None)
        parts = torch.split(weight, PART, dim=1) if dtype is torch.float32 else ()
        self.parts = [Product(part, None if i else layer.conv.bias, dtype) for i, part in enumerate(parts)]

    def __call__(self, rows: torch.Tensor, in_parts: bool, true: int = 0) -> torch.Tensor:
        rows = rows.to(self.dtype).contiguous()
        length, channels = rows.shape
        frames = (length - self.kernel) // self.stride + 1
        windows = rows.as_strided((frames, self.kernel * channels), (self.stride * channels, 1))
        in_parts = in_parts and len(self.parts) > 1
        if in_parts:
            pieces = torch.split(windows, PART, dim=1)
            out = torch.stack([part(piece) for part, piece in zip(self.parts, pieces, strict=True)]).sum(0)
        else:
            out = self.product(windows)
        out = _normalise_time(out, self.time_norm, true) if self.time_norm else self.norm(out)
        return functional.gelu(out) if self.normed or in_parts else out


class _Block:
    """A transformer block over the frames of several clips, and perhaps some behind them that are nobody's."""

    def __init__(self, block: Any, stable: bool, dtype: torch.dtype) -> None:
        attention, feed = block.attention, block.feed_forward
        self.stable, self.dtype, self.heads = stable, dtype, attention.num_heads
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.qkv = Product(torch.cat([p.weight for p in projections]), torch.cat([p.bias for p in projections]), dtype)
        self.gate = getattr(attention, "gru_rel_pos_linear", None)
        self.gate_scale = getattr(attention, "gru_rel_pos_const", None)
        self.out = _product(attention.out_proj, dtype)
        self.wide = _product(feed.intermediate_dense, dtype, gelu=True)
        self.narrow = _product(feed.output_dense, dtype)
        after = dtype if stable else torch.float32
        self.norm, self.final_norm = _layer_norm(block.layer_norm, after), _layer_norm(block.final_layer_norm, after)

    def __call__(self, states: torch.Tensor, counts: list[int], biases: list[torch.Tensor | None]) -> torch.Tensor:
        if self.stable:
            states = states + self._attend(self.norm(states), counts, biases)
            return states + self.narrow(self.wide(self.final_norm(states)))
        states = self.norm(states + self._attend(states.to(self.dtype), counts, biases))
        return self.final_norm(states + self.narrow(self.wide(states.to(self.dtype))))

    def _attend(self, states: torch.Tensor, counts: list[int], biases: list[torch.Tensor | None]) -> torch.Tensor:
        rest = len(states) - sum(counts)
        sizes = [*counts, rest]
        clips = zip(torch.split(self.qkv(states), sizes), torch.split(states, sizes), biases, strict=False)
        seen = [self._attend_clip(qkv, own, bias) for qkv, own, bias in clips]
        return self.out(functional.pad(torch.cat(seen), (0, 0, 0, rest)))

    def _attend_clip(self, qkv: torch.Tensor, states: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        frames = len(qkv)
        query, key, value = qkv.view(1, frames, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if bias is not None:
            bias = (self._gates(states) * bias).to(self.dtype)[None]
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return seen[0].transpose(0, 1).reshape(frames, -1)

    def _gates(self, states: torch.Tensor) -> torch.Tensor:
        """Gates `(H, F, 1)` of the bias by distance (WavLM: Chen et al. 2022, arXiv:2110.13900)."""
        assert self.gate is not None and self.gate_scale is not None
        by_head = states.float().view(len(states), self.heads, -1).transpose(0, 1)
        update, reset = self.gate(by_head).unflatten(-1, (2, 4)).sum(-1).sigmoid().chunk(2, dim=-1)
        gates: torch.Tensor = update * (reset * self.gate_scale[0] - 1.0) + 2.0
        return gates


def _product(linear: Any, dtype: torch.dtype, gelu: bool = False) -> Product:
    return Product(linear.weight, linear.bias, dtype, gelu)


def _layer_norm(norm: Any, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    if norm is None:
        return lambda rows: rows
    shape, weight, bias, eps = tuple(norm.normalized_shape), norm.weight, norm.bias, norm.eps
    return lambda rows: functional.layer_norm(rows, shape, weight, bias, eps).to(dtype)


def _normalise_time(rows: torch.Tensor, norm: nn.GroupNorm, true: int) -> torch.Tensor:
    """Each channel of rows `(T, C)` brought to mean 0 and variance 1 over the first `true` rows, then scaled."""
    variance, mean = torch.var_mean(rows[:true].float(), dim=0, correction=0)
    scale = norm.weight * (variance + norm.eps).rsqrt()
    wide = rows.float()
    # In place: half a minute of the first convolution is 200 MB.
    return torch.addcmul(norm.bias - mean * scale, wide, scale, out=wide).to(rows.dtype)
