"""wav2vec2, HuBERT and WavLM: checkpoints of transformers, with audEERING's emotion, age and gender heads.

Whisper's encoder is not among them: it takes log-mel frames of exactly 30 s, so it needs a front end of its own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vbx.cache.spec import EncoderSpec
from vbx.errors import CheckpointError, UnknownName
from vbx.extract.checkpoints import weights_digest
from vbx.extract.encoder import Encoder

NEEDS_CHECKPOINT = True
PRECISIONS = ("float32", "tf32", "float16", "bfloat16")
CPU_PRECISIONS = ("float32", "bfloat16")


def fingerprint(spec: EncoderSpec, checkpoint: Path | None) -> str | None:
    """Digest of the weights.

    Raises:
        CheckpointError: if there are none
    """
    return weights_digest(_given(spec, checkpoint))


def load(spec: EncoderSpec, checkpoint: Path | None, device: str) -> Encoder:
    """Load the model; see `SpeechEncoder` for what it gives.

    Raises:
        CheckpointError: if there are no weights, or they are not of this family or incomplete
        DeviceError: if the device lacks the instructions for the precision
        UnknownName: if the spec asks for a pooling or a precision that there is not
    """
    # Late: a digest needs neither torch nor transformers, which take seconds to import.
    from vbx.extract.encoders._cpu_encoder import open_cpu_encoder
    from vbx.extract.encoders._packed_encoder import open_gpu_encoder
    from vbx.extract.encoders._speech_models import load_speech_model

    if spec.pooling != "mean":
        raise UnknownName("pooling", str(spec.pooling), ["mean"])
    known = CPU_PRECISIONS if device == "cpu" else PRECISIONS
    if spec.precision not in known:
        raise UnknownName("precision", spec.precision, known, f"(on {device})")
    folder = _given(spec, checkpoint)
    model = load_speech_model(folder, device)
    if model.sample_rate != spec.sample_rate:
        raise CheckpointError(f"{str(folder)!r} wants {model.sample_rate} Hz, and the spec says {spec.sample_rate} Hz")
    if device == "cpu":
        return open_cpu_encoder(spec, model)
    return open_gpu_encoder(spec, model, device)


def make_graph(spec: EncoderSpec, checkpoint: Path | None, outputs: Sequence[str], prefix: str) -> Any:
    """The model as ONNX: `signal (1, T)` to these outputs side by side, `PREFIXfeature (1, D)`.

    Raises:
        CheckpointError: if there are no weights, or they are too large for an ONNX file
    """
    from vbx.extract.encoders._speech_graph import make_speech_graph
    from vbx.extract.encoders._speech_models import load_speech_model

    return make_speech_graph(spec, load_speech_model(_given(spec, checkpoint), "cpu"), outputs, prefix)


def _given(spec: EncoderSpec, checkpoint: Path | None) -> Path:
    if checkpoint is None:
        raise CheckpointError(f"{spec.model!r} needs weights: --checkpoint NAME=PATH, or `find_checkpoint`")
    return checkpoint
