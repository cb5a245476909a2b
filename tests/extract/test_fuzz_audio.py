"""Damaged audio files through every decoder, in a process of its own: a finite waveform or an AudioError, nothing else.

One case again, by hand: `python tests/extract/test_fuzz_audio.py FOLDER SEED INDEX 1`.
"""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

MEMORY = 2**30
"""Bytes that a worker may have beyond what its imports take."""
LIMIT_S = 20
"""Processor time that a file may take, in seconds."""
EXTREMES = [
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**62,
    2**64 - 1,
]


# ---------------------------------------------------------------- files, whole and damaged


def write_whole(folder: Path) -> None:
    """A tenth of a second in each format and encoding that libsndfile writes, and in some of FFmpeg's."""
    samples = np.random.default_rng(0).standard_normal((2205, 2)) * 0.1
    for kind in soundfile.available_formats():
        for subtype in soundfile.available_subtypes(kind):
            for channels, rate in ((1, 16000), (2, 22050), (2, 48000)):
                path = folder / f"{kind}-{subtype}-{channels}-{rate}.{kind.lower()}"
                try:
                    soundfile.write(path, samples[:, :channels], rate, subtype=subtype, format=kind)
                except (
                    soundfile.LibsndfileError,
                    AssertionError,
                ):  # not every encoding takes every number of channels and rate
                    path.unlink(missing_ok=True)
    try:
        import av
    except ImportError:
        return
    for name, codec in (
        ("a.m4a", "aac"),
        ("a.mp4", "alac"),
        ("a.aac", "aac"),
        ("a.webm", "libopus"),
        ("a.wma", "wmav2"),
    ):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(codec, rate=48000, layout="mono")
            stream.bit_rate = 64000
            frame = av.AudioFrame.from_ndarray(samples[None, :, 0].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, 0
            wanted = stream.codec_context.codec.audio_formats[0].name
            resampler = av.AudioResampler(wanted, "mono", 48000, frame_size=1024)
            for piece in [*resampler.resample(frame), *resampler.resample(None)]:
                container.mux(stream.encode(piece))
            container.mux(stream.encode(None))


def flip(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    for _ in range(rng.choice([1, 1, 4, 40])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def cut(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    del data[rng.randrange(len(data)) :]


def splice(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    other = rng.choice(others)
    data[rng.randrange(len(data)) :] = other[rng.randrange(len(other)) :]


def repeat(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    at = rng.randrange(len(data))
    data[at:at] = data[at : at + rng.randrange(1, 400)] * rng.choice([1, 2, 50])


def drop(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice([1, 2, 3, 8, 100])]


def set_number(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    """An extreme value in a field near the begin: channels, rate, sizes, alignment."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        width = rng.choice([1, 2, 2, 4, 4, 4, 8])
        at = rng.randrange(min(len(data), rng.choice([48, 48, 48, 120, 1200])))
        number = rng.choice(EXTREMES) % 256**width
        data[at : at + width] = number.to_bytes(width, rng.choice(["little", "big"]))


def set_wav_field(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    """Format tag, channels, rate, bytes a second, alignment or bits of a WAV; size of a chunk anywhere."""
    marks = [m for m in (b"fmt ", b"data", b"COMM", b"SSND", b"desc", b"pakt", b"moov", b"mdat", b"vbr ") if m in data]
    if not marks:
        return set_number(data, rng, others)
    at = data.index(rng.choice(marks)) + rng.choice([4, 4, 8, 10, 12, 16, 20, 22, 24, 28])
    width = rng.choice([2, 4])
    data[at : at + width] = (rng.choice(EXTREMES) % 256**width).to_bytes(width, rng.choice(["little", "big"]))


MUTATIONS: list[Callable[[bytearray, random.Random, list[bytes]], None]] = [
    flip, cut, splice, repeat, drop, set_number, set_number, set_wav_field, set_wav_field,
]  # fmt: skip


def mutant(whole: list[Path], seed: int, index: int) -> tuple[str, bytes]:
    """The suffix and the bytes of one damaged file: the same for the same numbers."""
    rng = random.Random(f"{seed}-{index}")
    foreign = [path for path in whole if path.stem == "a"]
    path = rng.choice(foreign if foreign and rng.random() < 0.15 else whole)
    others = [rng.choice(whole).read_bytes() for _ in range(2)]
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 2])):
        if data:
            rng.choice(MUTATIONS)(data, rng, others)
    # What libsndfile refuses is taken to FFmpeg if the name suggests it.
    return path.suffix if rng.random() < 0.85 else ".m4a", bytes(data)


# ---------------------------------------------------------------- the worker


def outcome(path: Path, rng: random.Random) -> str:
    """How one file ends: `wave`, `AudioError`, or what else it was."""
    from vbx.errors import AudioError
    from vbx.extract.audio import header_seconds, read_wave

    found = ""
    try:
        seconds = header_seconds(path)
        if seconds is not None and not 0 < seconds < float("inf"):
            return f"header_seconds gave {seconds}"
        wave = read_wave(path)
        found = "wave"
        if wave.dtype != np.float32 or wave.ndim != 1 or not len(wave) or not np.isfinite(wave).all():
            return f"read_wave gave {wave.dtype} {wave.shape}"
        start_s = rng.choice([0.0, 0.03, 0.0999])
        read_wave(path, start_s=start_s, end_s=rng.choice([None, 0.1]), channel=rng.choice(["mix", "0", "1"]))
    except AudioError:
        return found or "AudioError"
    except Exception as error:  # noqa: BLE001  (whatever it is, it is what is looked for)
        return f"{type(error).__name__}: {error}"
    return found


def work(folder: Path, seed: int, first: int, count: int) -> None:
    """Print the index and the outcome of each file, one a line."""
    from vbx.extract import audio, ffmpeg  # noqa: F401  (what it takes is not the files' doing)

    warnings.simplefilter("error")
    report = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a library prints there too
    whole = sorted((folder / "whole").iterdir())
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for index in range(first, first + count):
        suffix, data = mutant(whole, seed, index)
        path = folder / f"mutant-{seed}{suffix}"
        path.write_bytes(data)
        print(json.dumps([index, "begun"]), file=report, flush=True)
        signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
        print(json.dumps([index, outcome(path, random.Random(index))]), file=report, flush=True)
        signal.setitimer(signal.ITIMER_PROF, 0)
        path.unlink()


def outcomes(folder: Path, seed: int, count: int) -> Iterator[tuple[int, str]]:
    """The outcome of each file; a worker that died is replaced by one that goes on behind the file it died of."""
    first = 0
    while first < count:
        command = [sys.executable, __file__, str(folder), str(seed), str(first), str(count - first)]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        worker = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
        lines = [json.loads(line) for line in worker.stdout.decode().splitlines()]
        yield from ((index, what) for index, what in lines if what != "begun")
        assert lines, "the worker did not even begin"
        first = lines[-1][0] + 1
        if lines[-1][1] == "begun":
            code = worker.returncode
            yield lines[-1][0], f"worker died: {signal.Signals(-code).name if code < 0 else code}"


# ---------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "whole").mkdir()
    write_whole(folder / "whole")
    return folder


def check(folder: Path, seed: int, count: int) -> None:
    found = dict(outcomes(folder, seed, count))
    assert sorted(found) == list(range(count))
    bad = {index: what for index, what in found.items() if what not in ("wave", "AudioError")}
    assert not bad, f"seed {seed}: {bad}"
    # Else the damage would be none, or nothing but damage.
    assert min(sum(what == kind for what in found.values()) for kind in ("wave", "AudioError")) > count / 10


def test_damaged_files(folder: Path) -> None:
    check(folder, 0, 300)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_many_damaged_files(folder: Path, seed: int) -> None:
    check(folder, seed, 3000)


if __name__ == "__main__":
    work(Path(sys.argv[1]), *(int(word) for word in sys.argv[2:]))
