"""A made-up corpus of vocal bursts, for the demo, tests and benchmarks: every label can be heard.

| label | heard as |
|---|---|
| gender | female: fundamental frequency around 210 Hz, formants 17 % higher; male: around 115 Hz |
| age | from 20 to 40 years: 4 semitones and 8 % in the formants lower, breathier, jitter 0.2 to 1.6 %, and longer |
|     | pauses after each call, 5 to 30 % of it |
| country | number of calls, what the pitch does within each, and the vowel: see `COUNTRIES` |
| Awe | long, lips rounded (second formant lower), breathy |
| Excitement | higher, brighter, the pitch moves wide within each call |
| Amusement | laughter: the loudness pulses five times a second |
| Awkwardness | lower, softer, shorter, creaking (jitter) |
| Fear | high and trembling |
| Horror | rough (70 pulses a second), mouth open (first formant higher), louder |
| Distress | the pitch falls through the whole burst, lips spread (second formant higher) |
| Triumph | loud and bright, longer |
| Sadness | soft and dull, a little lower |
| Surprise | the pitch rises through the whole burst, which is short, higher and brighter |

The sound follows the intensities proportionally (`EMOTIONS` holds the full effect of each). A clip has one strong
emotion, one weaker, and traces of the others. Clips of a speaker share gender, age and country.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import soundfile

from vbx.errors import CorpusError
from vbx.extract.voice import SAMPLE_RATE, Voice, synthesise_burst

EMOTIONS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "Awe": {"length": 1.0, "front": -0.4, "breath": 0.3},
        "Excitement": {"pitch": 3.0, "contour": 7.0, "bright": 0.4},
        "Amusement": {"laughter": 1.0},
        "Awkwardness": {"pitch": -5.0, "length": -0.5, "creak": 1.0, "level": -3.0},
        "Fear": {"pitch": 9.0, "tremor": 1.0},
        "Horror": {"roughness": 0.9, "open": 0.4, "level": 4.0},
        "Distress": {"rise": -12.0, "front": 0.3, "level": 2.0},
        "Triumph": {"level": 8.0, "bright": 0.7, "length": 0.5},
        "Sadness": {"level": -9.0, "bright": -0.8, "pitch": -2.0},
        "Surprise": {"rise": 12.0, "length": -0.8, "pitch": 3.0, "bright": 0.3},
    }
)
"""Full effect of each emotion: `pitch`, `contour`, `rise` and `tremor` in semitones, `level` in dB, `length`, `bright`,
`open` (first formant) and `front` (second) in octaves, the rest as amplitudes or depths: see `Voice`."""
COUNTRIES: Mapping[str, tuple[int, str, tuple[float, float, float]]] = MappingProxyType(
    {
        "United States": (1, "arch", (730.0, 1090.0, 2440.0)),
        "China": (2, "dip", (270.0, 2290.0, 3010.0)),
        "South Africa": (3, "fall", (300.0, 870.0, 2240.0)),
        "Venezuela": (4, "rise", (530.0, 1840.0, 2480.0)),
    }
)
"""Calls in a burst, pitch within each, and vowel (of `father`, `heed`, `who'd`, `head`: the men of Peterson and Barney
1952, doi:10.1121/1.1906875). Names as in HUME-VB; the sounds are invented and say nothing about people."""
UPPER_FORMANTS_HZ = (3500.0, 4500.0, 5500.0, 6500.0)
GENDERS = ("Female", "Male")


@dataclass(frozen=True)
class _Speaker:
    name: str
    split: str
    gender: str
    age: int
    country: str
    pitch: float
    """Semitones by which the speaker's voice is off the mean of the gender."""
    tract: float
    """Factor of the formants."""


def synthesise_corpus(folder: str | Path, *, seed: int = 0, speakers: int = 12, clips_per_speaker: int = 20) -> Path:
    """Write a corpus: `audio/*.wav` (16 kHz, 16 bits, 0.4 to 2.5 s) and `labels.csv`.

    The same seed gives the same bytes on the same machine.

    Args:
        folder: where to; made if it is not there
        seed: of everything that is random
        speakers: a sixth of them, but at least one, is dev, as many are test, the others train; from eight speakers in
            train on, each pair of gender and country is there
        clips_per_speaker: clips of each

    Returns:
        the folder; `labels.csv` has the columns file, speaker, split, gender, age (years), country and the ten
        emotions (0 to 1)

    Raises:
        CorpusError: if there are fewer than three speakers, or no clips

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as tmp:
        ...     labels = pd.read_csv(synthesise_corpus(tmp, speakers=3, clips_per_speaker=2) / "labels.csv")
        >>> list(labels["split"])
        ['train', 'train', 'dev', 'dev', 'test', 'test']
    """
    if speakers < 3 or clips_per_speaker < 1:
        raise CorpusError(
            f"a corpus of {speakers} speakers with {clips_per_speaker} clips each cannot be split: make it at least "
            "3 speakers with 1 clip"
        )
    folder = Path(folder)
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = []
    for speaker in _speakers(speakers, rng):
        for clip, intensities in enumerate(_intensities(clips_per_speaker, rng)):
            file = f"audio/{speaker.name}_{clip:03d}.wav"
            wave = synthesise_burst(_voice(speaker, intensities, rng), rng)
            soundfile.write(folder / file, np.round(wave * 32767).astype(np.int16), SAMPLE_RATE, subtype="PCM_16")
            about = {name: getattr(speaker, name) for name in ("split", "gender", "age", "country")}
            rows.append({"file": file, "speaker": speaker.name, **about, **intensities})
    pd.DataFrame(rows).to_csv(folder / "labels.csv", index=False)
    return folder


def _speakers(count: int, rng: np.random.Generator) -> Iterator[_Speaker]:
    held_out = max(1, count // 6)
    first = rng.random()
    for i in range(count):
        split = "train" if i < count - 2 * held_out else "dev" if i < count - held_out else "test"
        # Steps of the golden ratio spread the ages evenly, however many speakers there are.
        age = round(20 + 20 * ((first + i * 0.6180339887) % 1.0))
        gender = GENDERS[(i + i // 4) % 2]
        country = list(COUNTRIES)[i % 4]
        yield _Speaker(f"speaker{i:02d}", split, gender, age, country, rng.normal(0, 0.5), 1 + rng.normal(0, 0.01))


def _intensities(clips: int, rng: np.random.Generator) -> Iterator[dict[str, float]]:
    """One strong emotion, each in turn, one weaker, and traces of the others."""
    names = list(EMOTIONS)
    order = np.concatenate([rng.permutation(len(names)) for _ in range(-(-clips // len(names)))])
    for strong in order[:clips]:
        values = rng.uniform(0.0, 0.1, len(names))
        values[(strong + rng.integers(1, len(names))) % len(names)] = rng.uniform(0.2, 0.5)
        values[strong] = rng.uniform(0.6, 1.0)
        yield dict(zip(names, values.round(4).tolist(), strict=True))


def _voice(speaker: _Speaker, intensities: Mapping[str, float], rng: np.random.Generator) -> Voice:
    """How a speaker sounds in an emotional state."""
    effect = dict.fromkeys({name for effects in EMOTIONS.values() for name in effects}, 0.0)
    for emotion, intensity in intensities.items():
        for name, full in EMOTIONS[emotion].items():
            effect[name] += intensity * full
    calls, contour, vowel = COUNTRIES[speaker.country]
    old = (speaker.age - 20) / 20
    female = speaker.gender == "Female"
    pitch = speaker.pitch + effect["pitch"] - 4 * old + rng.normal(0, 0.5)
    size = speaker.tract * (1.17 if female else 1.0) * (1.04 - 0.08 * old)
    mouth = 2 ** np.array([effect["open"], effect["front"], effect["front"] / 2])
    formants = np.array([*(vowel * mouth), *UPPER_FORMANTS_HZ]) * size
    formants *= 1 + rng.normal(0, 0.01, len(formants))
    return Voice(
        seconds=float(np.clip(1.05 * 2 ** (effect["length"] + rng.normal(0, 0.2)), 0.4, 2.5)),
        calls=calls,
        pause=0.05 + 0.25 * old,
        f0_hz=(210 if female else 115) * 2 ** (pitch / 12),
        contour=contour,
        contour_st=3 + effect["contour"],
        rise_st=effect["rise"],
        formants_hz=tuple(formants.tolist()),
        cutoff_hz=1200 * 2 ** effect["bright"],
        level_db=-30 + effect["level"] + rng.normal(0, 0.5),
        breath=0.02 + 0.13 * old + effect["breath"],
        jitter=0.002 * 8**old + 0.02 * effect["creak"],
        roughness=min(effect["roughness"], 1.0),
        tremor_st=effect["tremor"],
        laughter=min(effect["laughter"], 1.0),
    )
