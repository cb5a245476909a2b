"""wav2vec2, HuBERT and WavLM: checkpoints of transformers, with audEERING's emotion, age and gender heads.

Whisper's encoder is not among them: it takes log-mel frames of exactly 30 s, so it needs a front end of its own.
"""

from pathlib import Path

from vbx.cache.spec import EncoderSpec
from vbx.errors import CheckpointError, UnknownName
from vbx.extract.checkpoints import weights_digest
from vbx.extract.encoder import Encoder

NEEDS_CHECKPOINT = True


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
        UnknownName: if the spec asks for a pooling or a precision that there is not
    """
    # Late: a digest needs neither torch nor transformers, which take seconds to import.
    from vbx.extract.encoders._speech_encoder import SpeechEncoder
    from vbx.extract.encoders._speech_models import load_speech_model

    if spec.pooling != "mean":
        raise UnknownName("pooling", str(spec.pooling), ["mean"])
    if spec.precision != "float32":
        raise UnknownName("precision", spec.precision, ["float32"])
    folder = _given(spec, checkpoint)
    model = load_speech_model(folder, device)
    if model.sample_rate != spec.sample_rate:
        raise CheckpointError(f"{str(folder)!r} wants {model.sample_rate} Hz, and the spec says {spec.sample_rate} Hz")
    return SpeechEncoder(spec, model, device)


def _given(spec: EncoderSpec, checkpoint: Path | None) -> Path:
    if checkpoint is None:
        raise CheckpointError(f"{spec.model!r} needs weights: --checkpoint NAME=PATH, or `find_checkpoint`")
    return checkpoint
