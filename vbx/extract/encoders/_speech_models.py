"""Loading wav2vec2, HuBERT and WavLM checkpoints: every weight from the file, or an error."""

import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations
from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2Model, WavLMConfig, WavLMModel

from vbx.errors import CheckpointError
from vbx.extract.encoders._windows import ConvStack
from vbx.extract.weights import CONFIGS, read_config, read_preprocessor, tensor_files

Tensors: TypeAlias = dict[str, torch.Tensor]

FAMILIES: dict[str, tuple[Any, Any, str]] = {
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model, "sdpa"),
    "hubert": (HubertConfig, HubertModel, "sdpa"),
    "wavlm": (WavLMConfig, WavLMModel, "eager"),
}
"""By `model_type`: config, model, and the attention that it supports. The name is also the prefix of its weights."""
HEADS = {"classifier": "logits", "age": "age", "gender": "gender"}
"""Heads of audEERING's models: prefix of its weights, and the output it becomes."""
HEAD_WEIGHTS = frozenset(("dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias"))
COLUMNS = {"age": ("age",), "gender": ("female", "male", "child")}
"""Columns of the outputs that a config does not name (audeering/w2v2-age-gender-how-to)."""
UNUSED = re.compile(
    "(quantizer|project_q|project_hid|lm_head|projector|classifier|layer_weights|feature_extractor|tdnn|objective)"
    r"(\..+)?"
)
"""Weights beside the encoder that belong to pre-training, or to heads of transformers' own that vbx does not run."""
COUNTER = ".num_batches_tracked"
"""A count that batch norms keep while they are trained; nothing depends on it."""
FIELDS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps"),
    *("feat_extract_norm", "feat_extract_activation", "conv_dim", "conv_stride", "conv_kernel", "conv_bias"),
    *("num_conv_pos_embeddings", "num_conv_pos_embedding_groups", "do_stable_layer_norm", "feat_proj_layer_norm"),
    *("conv_pos_batch_norm", "num_buckets", "max_bucket_distance", "add_adapter", "adapter_attn_dim"),
)
"""What a config.json says of the encoder. The rest is of training and heads, or would have transformers do more than
build it: fetch an attention kernel from the hub, or run code of the checkpoint."""
BROKEN = (
    *(SafetensorError, RuntimeError, EOFError, ValueError, LookupError, AttributeError),
    *(TypeError, AssertionError, OSError, OverflowError),
)
"""What the readers of weights raise for a damaged file."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Head(nn.Module):
    """The head of audEERING's models: linear, tanh, linear (Wagner et al. 2022, arXiv:2203.07378, section 2.4)."""

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, outputs)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """From mean hidden states `(B, D)` to `(B, K)`."""
        out: torch.Tensor = self.out_proj(torch.tanh(self.dense(pooled)))
        return out


@dataclass(frozen=True)
class SpeechModel:
    """A checkpoint, loaded: parts of transformers' model, in evaluation mode, with float32 parameters.

    Attributes:
        convolutions: from waveforms `(B, T)` to `(B, C, F)`
        projection: from `(B, F, C)` to the transformer's input `(B, F, D)`, alone or first in a tuple
        transformer: from its input and a mask of true frames `(B, F)` to `last_hidden_state`
        blocks: the blocks of the transformer, in order
        dim: width of its hidden states
        stack: kernels and strides of the convolutions
        heads: head by the name of its output
        columns: names of the columns of each head's output
        standardise: whether a waveform is brought to mean 0 and variance 1 first
        sample_rate: rate of the waveforms it was trained on, in Hz
        paddable: whether a padded row gives what the clip gives alone
    """

    convolutions: nn.Module
    projection: nn.Module
    transformer: nn.Module
    blocks: Sequence[nn.Module]
    dim: int
    stack: ConvStack
    heads: Mapping[str, Head]
    columns: Mapping[str, tuple[str, ...]]
    standardise: bool
    sample_rate: int
    paddable: bool


def load_speech_model(folder: Path, device: str) -> SpeechModel:
    """Load a checkpoint of the wav2vec2 family, with the heads that vbx knows.

    Args:
        folder: config.json, the weights, and preprocessor_config.json if there is one
        device: where its parameters go

    Raises:
        CheckpointError: if the family is unknown, a weight is missing, strange or not a float, or a file is damaged
    """
    values = read_config(folder)
    standardise, rate = read_preprocessor(folder)
    family, base = _empty_model(folder, values)
    config = base.config
    own, others = _split_weights(read_tensors(folder), family)
    _fill(base, own, folder)
    heads = _read_heads(others, config.hidden_size, folder)
    if heads and values.get("pooling_mode", "mean") != "mean":
        raise CheckpointError(f"the heads in {str(folder)!r} want pooling {values['pooling_mode']!r}; vbx knows 'mean'")
    positions = base.encoder.pos_conv_embed.conv
    if is_parametrized(positions):
        remove_parametrizations(positions, "weight")  # else it is computed again for every batch
    base.eval().requires_grad_(False).to(device)
    return SpeechModel(
        convolutions=base.feature_extractor,
        projection=base.feature_projection,
        transformer=base.encoder,
        blocks=tuple(base.encoder.layers),
        dim=config.hidden_size,
        stack=ConvStack(tuple(config.conv_kernel), tuple(config.conv_stride)),
        heads={name: head.eval().requires_grad_(False).to(device) for name, head in heads.items()},
        columns={name: _columns(name, head.out_proj.out_features, values) for name, head in heads.items()},
        standardise=standardise,
        sample_rate=rate,
        # A batch norm in front of the positional convolution turns the zeros behind a clip into something else.
        paddable=not getattr(config, "conv_pos_batch_norm", False),
    )


def read_tensors(folder: Path) -> Tensors:
    """The weights of a checkpoint in float32: safetensors, or a pickle of nothing but tensors.

    Raises:
        CheckpointError: if a file is damaged, or holds anything but floating-point tensors
    """
    tensors: Tensors = {}
    for path in tensor_files(folder):
        try:
            if path.suffix == ".safetensors":
                content = load_file(path, device="cpu")
            else:
                content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{str(path)!r} is refused: it is damaged, or a pickle that does more than hold tensors"
            ) from error
        except BROKEN as error:
            raise CheckpointError(f"weights in {str(path)!r} are damaged ({error})") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{str(path)!r} holds no table of weights")
        tensors.update(content)
    tensors = {key: value for key, value in tensors.items() if not key.endswith(COUNTER)}
    wrong = [key for key, value in tensors.items() if getattr(value, "dtype", None) not in FLOATS]
    if wrong:
        raise CheckpointError(f"{str(folder)!r} has weights that are not floating-point tensors: {_some(wrong)}")
    return {key: value.to(torch.float32) for key, value in tensors.items()}


def _empty_model(folder: Path, values: dict[str, Any]) -> tuple[str, Any]:
    """Family of the model that a config.json describes, and the model without any weights."""
    family = str(values.get("model_type"))
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise CheckpointError(f"{str(folder / CONFIGS[0])!r} has model_type {family!r}; vbx knows {known}")
    config_class, model_class, attention = FAMILIES[family]
    # Masking is for training; without it the model has no weight for it.
    values = {key: values[key] for key in FIELDS if key in values} | {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    try:
        config = config_class.from_dict(values, attn_implementation=attention)
        with torch.device("meta"):  # no memory and no random numbers: a weight comes from the file or not at all
            model = model_class(config)
    except (StrictDataclassError, ValueError, TypeError, KeyError, RuntimeError, ArithmeticError) as error:
        raise CheckpointError(f"{str(folder / CONFIGS[0])!r} describes no {family} model ({error})") from error
    if getattr(config, "add_adapter", False):
        raise CheckpointError(f"{str(folder)!r} has an adapter behind its transformer, which vbx does not run")
    return family, model


def _split_weights(tensors: Tensors, prefix: str) -> tuple[Tensors, Tensors]:
    """Weights of the encoder under the names it has today, and those of heads."""
    prefixed = any(key.startswith(f"{prefix}.") for key in tensors)
    own, others = {}, {}
    for key, value in tensors.items():
        inner = key.removeprefix(f"{prefix}.")
        if prefixed and inner == key:
            others[key] = value
        elif inner != "masked_spec_embed":
            # torch's weight norm has had two pairs of names.
            inner = re.sub(r"\.weight_g$", ".parametrizations.weight.original0", inner)
            own[re.sub(r"\.weight_v$", ".parametrizations.weight.original1", inner)] = value
    return own, others


def _read_heads(others: Tensors, dim: int, folder: Path) -> dict[str, Head]:
    """The heads among the weights beside the encoder; what is neither known nor a known head of others is an error."""
    heads = {}
    for prefix, output in HEADS.items():
        inner = {k.removeprefix(f"{prefix}."): v for k, v in others.items() if k.startswith(f"{prefix}.")}
        if inner and HEAD_WEIGHTS.issuperset(inner):
            columns = next((len(v) for k, v in inner.items() if k.startswith("out_proj.") and v.dim()), 1)
            with torch.device("meta"):
                heads[output] = Head(dim, columns)
            _fill(heads[output], inner, folder)
            others = {k: v for k, v in others.items() if not k.startswith(f"{prefix}.")}
    strange = [key for key in others if not UNUSED.fullmatch(key)]
    if strange:
        raise CheckpointError(f"{str(folder)!r} has weights that vbx does not know: {_some(strange)}")
    return heads


def _fill(module: nn.Module, tensors: Tensors, folder: Path) -> None:
    """Give a module these weights, all of them and no others."""
    try:
        result = module.load_state_dict(tensors, strict=False, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"weights in {str(folder)!r} do not fit their config.json: {reason}") from error
    missing = [key for key in result.missing_keys if not key.endswith(COUNTER)]
    if missing:
        raise CheckpointError(f"{str(folder)!r} lacks weights of its model: {_some(missing)}")
    if result.unexpected_keys:
        raise CheckpointError(f"{str(folder)!r} has weights that vbx does not know: {_some(result.unexpected_keys)}")


def _columns(name: str, count: int, values: dict[str, Any]) -> tuple[str, ...]:
    """Names of a head's columns: the config's labels for `logits`, known ones, or numbers."""
    labels = values.get("id2label") if name == "logits" else None
    if isinstance(labels, dict) and sorted(labels) == sorted(str(i) for i in range(count)):
        return tuple(str(labels[str(i)]) for i in range(count))
    known = COLUMNS.get(name, ())
    return known if len(known) == count else tuple(f"{name}_{i:04d}" for i in range(count))


def _some(names: Sequence[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
