"""Weights of a wav2vec2 or HuBERT model, laid out as the matrices that a pack is multiplied with."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vbx.extract.encoders._speech_models import SpeechModel
from vbx.extract.encoders._windows import ConvStack

BLOCK = 8
"""Frames that the positional convolution makes with one row of its matrix."""


@dataclass(frozen=True)
class Norm:
    """A layer norm: weight and bias `(D,)`, and what is added to the variance."""

    weight: torch.Tensor
    bias: torch.Tensor
    epsilon: float


@dataclass(frozen=True)
class Linear:
    """A linear map: weight `(out, in)` and bias `(out,)`."""

    weight: torch.Tensor
    bias: torch.Tensor | None


@dataclass(frozen=True)
class Convolution:
    """A strided convolution over rows of C channels, as a product with rows laid side by side.

    Attributes:
        weight: `(kernel * C, out)`
        bias: `(out,)`, zeros where the model has none
        kernel: its length
        stride: rows from one product to the next
        norm: the layer norm behind it
    """

    weight: torch.Tensor
    bias: torch.Tensor
    kernel: int
    stride: int
    norm: Norm


@dataclass(frozen=True)
class Positions:
    """The positional convolution of G groups as one product a group; see `_positions` of `_packed_model.py`.

    Attributes:
        weight: `(G, (kernel + BLOCK - 1) * in, BLOCK * out)`, the kernel shifted by one frame from column to column
        bias: `(G, 1, BLOCK * out)`
        before: frames that the kernel sees before the one it makes
    """

    weight: torch.Tensor
    bias: torch.Tensor
    before: int


@dataclass(frozen=True)
class Block:
    """One block of the transformer, with its norms in front of attention and feed-forward layers."""

    attention_norm: Norm
    queries_keys_values: Linear
    attention_out: Linear
    feed_norm: Norm
    feed_in: Linear
    feed_out: Linear
    heads: int


@dataclass(frozen=True)
class PackedWeights:
    """Weights of a model. Matrices are of `dtype`; norms of the residual stream and the last one are float32."""

    dtype: torch.dtype
    stack: ConvStack
    convolutions: tuple[Convolution, ...]
    projection_norm: Norm | None
    projection: Linear
    positions: Positions
    blocks: tuple[Block, ...]
    last_norm: Norm


def packable(model: SpeechModel) -> bool:
    """Whether a model's clips can lie end to end: its convolutions see no further than their kernels.

    That is so for wav2vec2 and HuBERT models with a layer norm behind each convolution and norms in front of each layer
    (large-robust, XLS-R, HuBERT large). A first convolution that is normalised over time is not local, and WavLM's
    attention has a term of its own.
    """
    config: Any = getattr(model.transformer, "config", None)
    return (
        getattr(config, "model_type", None) in ("wav2vec2", "hubert")
        and model.stack.reach <= 2 * model.stack.hop
        and config.feat_extract_norm == "layer"
        and config.do_stable_layer_norm
        and config.hidden_act == config.feat_extract_activation == "gelu"
        and getattr(config, "adapter_attn_dim", None) is None
        and not getattr(config, "conv_pos_batch_norm", False)
    )


def packed_weights(model: SpeechModel, dtype: torch.dtype) -> PackedWeights:
    """Lay out the weights of a model that is `packable`.

    Args:
        model: loaded, with float32 parameters
        dtype: of the matrix products: float32, float16 or bfloat16
    """
    transformer: Any = model.transformer
    projection: Any = model.projection
    convolutions: Any = model.convolutions
    norm = getattr(projection, "layer_norm", None)  # HuBERT may have none
    with torch.inference_mode():
        return PackedWeights(
            dtype=dtype,
            stack=model.stack,
            convolutions=tuple(_convolution(layer, dtype) for layer in convolutions.conv_layers),
            projection_norm=None if norm is None else _norm(norm, dtype),
            projection=_linear(projection.projection, dtype),
            positions=_toeplitz(transformer.pos_conv_embed.conv, dtype),
            blocks=tuple(_block(layer, dtype) for layer in transformer.layers),
            last_norm=_norm(transformer.layer_norm, torch.float32),
        )


def _norm(module: nn.LayerNorm, dtype: torch.dtype) -> Norm:
    return Norm(module.weight.to(dtype), module.bias.to(dtype), module.eps)


def _linear(module: nn.Linear, dtype: torch.dtype) -> Linear:
    return Linear(module.weight.to(dtype), None if module.bias is None else module.bias.to(dtype))


def _convolution(layer: Any, dtype: torch.dtype) -> Convolution:
    weight = layer.conv.weight  # (out, in, kernel)
    bias = weight.new_zeros(len(weight)) if layer.conv.bias is None else layer.conv.bias
    return Convolution(
        weight=weight.permute(2, 1, 0).flatten(0, 1).contiguous().to(dtype),
        bias=bias.to(dtype),
        kernel=weight.shape[2],
        stride=layer.conv.stride[0],
        norm=_norm(layer.layer_norm, dtype),
    )


def _toeplitz(conv: nn.Conv1d, dtype: torch.dtype) -> Positions:
    """A grouped convolution as matrices that make `BLOCK` neighbouring frames from all the frames those see."""
    out, inner, kernel = conv.weight.shape
    groups = conv.groups
    taps = conv.weight.view(groups, out // groups, inner, kernel).permute(0, 3, 2, 1).to(dtype)
    matrix = taps.new_zeros(groups, kernel + BLOCK - 1, inner, BLOCK, out // groups)
    for shift in range(BLOCK):
        matrix[:, shift : shift + kernel, :, shift] = taps
    bias = conv.bias if conv.bias is not None else taps.new_zeros(out)
    return Positions(
        weight=matrix.flatten(3).flatten(1, 2),
        bias=bias.view(groups, 1, -1).repeat(1, 1, BLOCK).to(dtype),
        before=kernel // 2,
    )


def _block(layer: Any, dtype: torch.dtype) -> Block:
    attention, feed = layer.attention, layer.feed_forward
    parts = [_linear(part, dtype) for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
    biases = [part.bias for part in parts if part.bias is not None]
    return Block(
        attention_norm=_norm(layer.layer_norm, torch.float32),
        queries_keys_values=Linear(torch.cat([part.weight for part in parts]), torch.cat(biases) if biases else None),
        attention_out=_linear(attention.out_proj, dtype),
        feed_norm=_norm(layer.final_layer_norm, torch.float32),
        feed_in=_linear(feed.intermediate_dense, dtype),
        feed_out=_linear(feed.output_dense, dtype),
        heads=attention.num_heads,
    )
