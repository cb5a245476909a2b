"""EncoderSpec: everything that can change an output. Its hash is the cache key."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from vbx.errors import CacheError

OPEN = ("weights", "channel", "resampler", "precision")
"""Fields that the catalogue leaves open: what a feature's name does not say."""
ENGINE = ("encoder", "code", "pooling", "window_s", "overlap_s")
"""Fields in which the ONNX release of a model differs from its checkpoint, under the same feature name."""


@dataclass(frozen=True)
class EncoderSpec:
    """Everything that can change an output of an encoder.

    Two specs are the same exactly when all their fields are; defaults count, `None` is left out, so a new
    optional field keeps old keys and a changed default changes them.

    Attributes:
        encoder: plugin that runs it (`wav2vec2`, `onnx`, `opensmile`, ..., or a dotted name)
        model: which model: a hub id, a feature set
        code: version of vbx's own arithmetic in that plugin; raised when its vectors change
        revision: revision of the hub repository, if one was asked for
        weights: digest of the weights (or the version of the library that stands for them)
        sample_rate: rate of the waveforms it sees, in Hz
        channel: `mix` (mean of all channels) or the number of one channel, from `0`
        resampler: converter and quality
        normalise: what is done to a waveform first: `none` or `peak` (divided by its largest magnitude)
        level: `functionals` or `lld`, for openSMILE
        pooling: how frames become one vector, for encoders of frames
        precision: arithmetic of the encoder
        window_s: longest stretch encoded at once, in seconds; longer audio is cut
        overlap_s: by how much two stretches overlap, in seconds
    """

    encoder: str
    model: str
    code: int = 1
    revision: str | None = None
    weights: str | None = None
    sample_rate: int = 16000
    channel: str = "mix"
    resampler: str = "soxr-HQ"
    normalise: str = "none"
    level: str | None = None
    pooling: str | None = None
    precision: str = "float32"
    window_s: float | None = None
    overlap_s: float | None = None

    @property
    def key(self) -> str:
        """SHA-256 of the spec, in hex."""
        return hashlib.sha256(canonical(self.to_json())).hexdigest()

    @property
    def folder(self) -> str:
        """Folder of its vectors inside a corpus: for people, then the key."""
        model = self.model.rsplit("/", 1)[-1] or self.encoder.rsplit(".", 1)[-1]
        words = [self.encoder.rsplit(".", 1)[-1], model, *[w for w in (self.level,) if w == "lld"]]
        words += ["norm"] if self.normalise != "none" else []
        words += [self.precision] if self.precision != "float32" else []
        name = re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(words)).strip("-.")
        return f"{name[:80]}-{self.key[:12]}"

    def to_json(self) -> dict[str, Any]:
        """The fields that are set."""
        return {k: v for k, v in asdict(self).items() if v is not None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "EncoderSpec":
        """The inverse of `to_json`.

        Raises:
            CacheError: if there is a field that this version does not know
        """
        strange = set(values) - {f.name for f in fields(cls)}
        if strange:
            raise CacheError(f"encoder spec has fields this version of vbx does not know: {sorted(strange)}")
        return cls(**values)

    def resolved(self, weights: str | None) -> "EncoderSpec":
        """This spec with the digest of the weights that will be used."""
        return replace(self, weights=weights)

    def answers(self, template: "EncoderSpec") -> bool:
        """Whether vectors of this spec are what a feature of the catalogue means by its template.

        Which weights, which channel and which resampler is left open; the ONNX release of a model counts as the model.
        """
        left_open = set(OPEN) | (set(ENGINE) if self.encoder == "onnx" else set())
        return not set(self.difference(template)) - left_open

    def difference(self, other: "EncoderSpec") -> dict[str, tuple[Any, Any]]:
        """Fields in which two specs differ: name to (ours, theirs)."""
        mine, theirs = asdict(self), asdict(other)
        return {k: (mine[k], theirs[k]) for k in mine if mine[k] != theirs[k]}

    def tell_difference(self, other: "EncoderSpec", *, but: Collection[str] = ()) -> str:
        """In words, what another spec has that is not this one's; empty where there is nothing.

        Args:
            other: the other spec
            but: fields that do not matter

        Examples:
            >>> EncoderSpec("noise", "a", weights="0" * 64).tell_difference(EncoderSpec("noise", "b"), but=["model"])
            "weights None rather than '000000000000…'"
        """
        gaps = {name: pair for name, pair in self.difference(other).items() if name not in but}
        return ", ".join(f"{name} {_brief(theirs)} rather than {_brief(mine)}" for name, (mine, theirs) in gaps.items())


def _brief(value: object) -> str:
    """A value of a field, digests cut short."""
    return repr(f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else value)


def canonical(value: object) -> bytes:
    """One byte string per JSON value: sorted keys, no spaces, UTF-8.

    Examples:
        >>> canonical({"b": 1, "a": [1.5, None]})
        b'{"a":[1.5,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
