"""Feature: a name a user types, resolved to outputs of encoders. Reads the catalogue."""

import hashlib
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

from vbx.cache.spec import EncoderSpec
from vbx.errors import UnknownName

OPTIONAL_OUTPUTS = ("layers", "frames")
"""Outputs that are kept only when they are asked for by `NAME@layers`, `NAME@frames`."""


@dataclass(frozen=True)
class Part:
    """Outputs of one encoder.

    Attributes:
        spec: the encoder's spec, open in the digest of its weights
        outputs: names of its outputs, side by side; empty for "all that are pooled" (`onnx:PATH`)
        encoder: name of the encoder in the catalogue, which `--checkpoint` may use too
        key: start of the full key, where a user asked for one (`egemaps#3f9c0a`)
        name: what the user typed, without the key
    """

    spec: EncoderSpec
    outputs: tuple[str, ...]
    encoder: str
    key: str = ""
    name: str = ""

    @property
    def typed(self) -> str:
        """What a user types to mean it."""
        return self.name or self.encoder

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of the vectors that a part gives whose weights are digested and whose outputs are named."""
        return hashlib.sha256(f"{self.spec.key} {list(self.outputs)}".encode()).hexdigest()


@dataclass(frozen=True)
class Feature:
    """A name a user types: which outputs of which encoders, side by side.

    Attributes:
        name: the name as typed
        parts: what is joined, in order
    """

    name: str
    parts: tuple[Part, ...]


def read_feature(name: str) -> Feature:
    """Look a feature up.

    Args:
        name: a name of the catalogue (`egemaps`), with `@layers` or `@frames`; `hf:ORG/NAME[@REV]`;
            `onnx:PATH`; `array:NAME` for imported vectors; `MODULE:MODEL` for an encoder plugin out of the
            tree; several joined by `+`;
            `NAME#KEY` for the vectors of one encoder among several of that name

    Raises:
        UnknownName: if there is no such feature

    Examples:
        >>> [p.outputs for p in read_feature("egemaps+w2v2-R-vad").parts]
        [('functionals',), ('hidden', 'logits')]
    """
    names = [part.strip() for part in name.split("+")]
    return Feature(name, tuple(replace(_read_part(part), name=part.partition("#")[0]) for part in names))


def list_features() -> list[dict[str, Any]]:
    """The catalogue's features, one dict each: feature, dim, about, licence, source, encoder."""
    table = _catalogue()["features"]
    return [{"feature": name, **{k: v for k, v in entry.items()}} for name, entry in table.items()]


def list_encoders() -> dict[str, EncoderSpec]:
    """The catalogue's encoders: name to spec, without weights."""
    return {name: EncoderSpec(**entry) for name, entry in _catalogue()["encoders"].items()}


def name_features(
    specs: Iterable[EncoderSpec], outputs: Mapping[str, Collection[str]] = MappingProxyType({})
) -> list[str]:
    """Names of the pooled features that vectors of some encoders can serve.

    Args:
        specs: of the encoders
        outputs: key of a spec to the outputs that are there; all of them where it is not named

    Examples:
        >>> name_features([EncoderSpec("array", "mine"), list_encoders()["egemaps"]])
        ['egemaps', 'array:mine']
    """
    there = list(specs)
    names = [
        entry["feature"]
        for entry in list_features()
        if not entry.get("frames")
        and any(
            s.answers(read_feature(entry["feature"]).parts[0].spec)
            and set(entry["outputs"]) <= set(outputs.get(s.key, entry["outputs"]))
            for s in there
        )
    ]
    known = {spec.model for spec in list_encoders().values()}
    beyond = {"array": "array:", "wav2vec2": "hf:"}
    return names + [beyond[s.encoder] + s.model for s in there if s.encoder in beyond and s.model not in known]


def _read_part(name: str) -> Part:
    name, _, key = name.partition("#")
    for output in OPTIONAL_OUTPUTS:
        if name.endswith("@" + output):
            part = _read_part(name.removesuffix("@" + output))
            return replace(part, outputs=(output,), key=key)
    encoders = list_encoders()
    kind, colon, rest = name.partition(":")
    if colon and kind == "hf" and rest:
        model, _, revision = rest.partition("@")
        spec = replace(encoders["hf"], model=model, revision=revision or None)
        return Part(spec, ("hidden",), name, key)
    if colon and kind == "onnx" and rest:
        # The path is where the weights are, not what they are: their digest goes into the key, a name for people too.
        return Part(replace(encoders["onnx"], model=PurePath(rest).name), (), name, key)
    if colon and kind == "array" and rest:
        return Part(EncoderSpec("array", rest), (), name, key)
    if colon and "." in kind:
        return Part(EncoderSpec(kind, rest), (), name, key)
    table = _catalogue()["features"]
    if name not in table:
        raise UnknownName("feature", name, table, "(`vbx list features`)")
    entry = table[name]
    return Part(encoders[entry["encoder"]], tuple(entry["outputs"]), entry["encoder"], key)


@cache
def _catalogue() -> dict[str, Any]:
    text = resources.files("vbx.cache").joinpath("features.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
