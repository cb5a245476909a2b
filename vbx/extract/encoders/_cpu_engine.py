"""The wav2vec2 family on a CPU: the same arithmetic as transformers' modules, without what they do in vain.

Frames are rows from the first convolution to the last block, so nothing is transposed for a norm; a convolution is one
product over overlapping rows; the weight norm is folded; GELU is part of the product in front of it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from vbx.extract.encoders._onednn import Convolution, Product
from vbx.extract.encoders._speech_models import SpeechModel

Norm = Callable[[torch.Tensor], torch.Tensor]


class CpuEngine:
    """Hidden states of a wav2vec2, HuBERT or WavLM model.

    Each clip is convolved and attends by itself, whatever lies beside it; what treats frames one by one sees those of
    all clips at once.
    """

    def __init__(self, model: SpeechModel, dtype: torch.dtype) -> None:
        config = model.transformer.config
        self.dtype = dtype
        self.convolutions = [_Front(layer, dtype) for layer in model.convolutions.conv_layers]
        self.projection_norm = _layer_norm(getattr(model.projection, "layer_norm", None), dtype)
        self.projection = _product(model.projection.projection, dtype)
        self.positions = Convolution(model.transformer.pos_conv_embed.conv, dtype, gelu=True, usual=112)
        self.stable = bool(config.do_stable_layer_norm)
        self.norm = _layer_norm(model.transformer.layer_norm, torch.float32)
        self.bias = getattr(model.blocks[0].attention, "compute_bias", None)
        self.blocks = [_Block(block, self.stable, dtype) for block in model.blocks]

    def states(self, waves: Sequence[torch.Tensor], layers: bool) -> list[list[torch.Tensor]]:
        """For each clip its hidden states `(F, D)`: the last one; or the input of each block, then the last."""
        clips = [self._frames(wave) for wave in waves]
        counts = [len(clip) for clip in clips]
        biases = [None if self.bias is None else self.bias(count, count) for count in counts]
        states = torch.cat(clips)
        if not self.stable:
            states = self.norm(states)
        inputs = []
        for block in self.blocks:
            if layers:
                inputs.append(states)
            states = block(states, counts, biases)
        last = self.norm(states) if self.stable else states
        return [list(of_clip) for of_clip in zip(*(s.split(counts) for s in [*inputs, last]), strict=True)]

    def _frames(self, wave: torch.Tensor) -> torch.Tensor:
        rows = wave[:, None]
        for convolution in self.convolutions:
            rows = convolution(rows)
        frames = self.projection(self.projection_norm(rows))
        return frames.float() + self.positions(frames)[: len(frames)]  # an even kernel gives one too many


class _Front:
    """One of the strided convolutions in front, as a product over windows of rows `(T, C)`; its norm and GELU."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        norm = getattr(layer, "layer_norm", None)
        self.norm = _time_norm(norm) if isinstance(norm, nn.GroupNorm) else _layer_norm(norm, dtype)
        self.kernel, self.stride = layer.conv.kernel_size[0], layer.conv.stride[0]
        self.dtype, self.normed = dtype, norm is not None
        weight = layer.conv.weight.permute(0, 2, 1).flatten(1)
        self.product = Product(weight, layer.conv.bias, dtype, gelu=norm is None)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        rows = rows.to(self.dtype).contiguous()
        length, channels = rows.shape
        frames = (length - self.kernel) // self.stride + 1
        windows = rows.as_strided((frames, self.kernel * channels), (self.stride * channels, 1))
        out = self.norm(self.product(windows))
        return functional.gelu(out) if self.normed else out


class _Block:
    """A transformer block over the frames of several clips."""

    def __init__(self, block: Any, stable: bool, dtype: torch.dtype) -> None:
        attention, feed = block.attention, block.feed_forward
        self.stable, self.dtype, self.heads = stable, dtype, attention.num_heads
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        weight = torch.cat([p.weight for p in projections])
        self.qkv = Product(weight, torch.cat([p.bias for p in projections]), dtype)
        self.gate = attention if hasattr(attention, "gru_rel_pos_linear") else None
        self.out = _product(attention.out_proj, dtype)
        self.norm = _layer_norm(block.layer_norm, dtype if stable else torch.float32)
        self.wide = _product(feed.intermediate_dense, dtype, gelu=True)
        self.narrow = _product(feed.output_dense, dtype)
        self.final_norm = _layer_norm(block.final_layer_norm, dtype if stable else torch.float32)

    def __call__(
        self, states: torch.Tensor, counts: list[int], biases: list[torch.Tensor | None]
    ) -> torch.Tensor:
        if self.stable:
            states = states + self._attend(self.norm(states), counts, biases)
            return states + self.narrow(self.wide(self.final_norm(states)))
        states = self.norm(states + self._attend(states.to(self.dtype), counts, biases))
        return self.final_norm(states + self.narrow(self.wide(states.to(self.dtype))))

    def _attend(self, states: torch.Tensor, counts: list[int], biases: list[torch.Tensor | None]) -> torch.Tensor:
        clips = self.qkv(states).split(counts)
        seen = [
            self._attend_clip(qkv, clip, bias)
            for qkv, clip, bias in zip(clips, states.split(counts), biases, strict=True)
        ]
        return self.out(torch.cat(seen))

    def _attend_clip(self, qkv: torch.Tensor, states: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        frames = len(qkv)
        query, key, value = qkv.view(1, frames, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if bias is not None:
            bias = (self._gates(states) * bias).to(self.dtype)[None]
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return seen[0].transpose(0, 1).reshape(frames, -1)

    def _gates(self, states: torch.Tensor) -> torch.Tensor:
        """WavLM's gates of the position bias `(H, F, 1)` (Chen et al. 2022, arXiv:2110.13900, section III-A)."""
        assert self.gate is not None
        by_head = states.float().view(len(states), self.heads, -1).transpose(0, 1)
        sums = self.gate.gru_rel_pos_linear(by_head).unflatten(-1, (2, 4)).sum(-1).sigmoid()
        first, second = sums.split(1, dim=-1)
        gates: torch.Tensor = first * (second * self.gate.gru_rel_pos_const[0] - 1.0) + 2.0
        return gates


def _product(linear: Any, dtype: torch.dtype, gelu: bool = False) -> Product:
    return Product(linear.weight, linear.bias, dtype, gelu)


def _layer_norm(norm: Any, dtype: torch.dtype) -> Norm:
    if norm is None:
        return lambda rows: rows
    shape, weight, bias, eps = tuple(norm.normalized_shape), norm.weight, norm.bias, norm.eps
    return lambda rows: functional.layer_norm(rows, shape, weight, bias, eps).to(dtype)


def _time_norm(norm: nn.GroupNorm) -> Norm:
    """Each channel of rows `(T, C)` normalised over time."""

    def normalise(rows: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(rows.float(), dim=0, correction=0)
        scale = norm.weight * (variance + norm.eps).rsqrt()
        return torch.addcmul(norm.bias - mean * scale, rows, scale).to(rows.dtype)

    return normalise
