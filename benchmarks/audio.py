"""How fast does a file become a waveform, beside librosa and others? CPU time of one core, all from one run.

    python benchmarks/audio.py [--seconds 0.5 2.3 5] [--clips 4] [--rounds 3] [--seed 0] [--folder FOLDER]

Each way decodes, mixes to mono and resamples to 16 kHz with soxr's HQ, as `librosa.load(path, sr=16000)` does by
itself; audiofile resamples through audresample. µs a file, median over clips and rounds. The ways take turns, each turn
in a fresh process, as what one leaves in the allocator makes another quicker; files are in the page cache. The ratio
says how many times as long librosa takes. All lengths are measured for 16-bit WAV, the middle one for the others. With
`--folder`, its files are measured instead, grouped by suffix, rate and channels.
"""

import argparse
import math
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import soundfile
import soxr

import vbx

RATE = 16000
ENCODINGS = {
    "wav 16 bit": ("wav", "PCM_16"),
    "wav 24 bit": ("wav", "PCM_24"),
    "wav float": ("wav", "FLOAT"),
    "flac": ("flac", "PCM_16"),
    "mp3": ("mp3", "MPEG_LAYER_III"),
    "ogg": ("ogg", "VORBIS"),
}
Way = Callable[[str], np.ndarray]


def with_soundfile(path: str) -> np.ndarray:
    """The two libraries, with nothing in between and nothing checked."""
    samples, rate = soundfile.read(path, dtype="float32")
    mono = samples if samples.ndim == 1 else samples.mean(axis=1)
    return mono if rate == RATE else soxr.resample(mono, rate, RATE, quality="HQ")


def list_ways() -> dict[str, Way]:
    """The ways that can be taken here."""
    ways: dict[str, Way] = {"vbx": lambda path: vbx.read_wave(path, RATE), "soundfile+soxr": with_soundfile}
    try:
        import librosa

        ways["librosa"] = lambda path: librosa.load(path, sr=RATE)[0]
    except ImportError:
        print("librosa is not installed, and left out: pip install 'vbx[bench]'")
    try:
        import audiofile
        import audresample

        def audeering(path: str) -> np.ndarray:
            samples, rate = audiofile.read(path, always_2d=True)
            return audresample.resample(samples.mean(axis=0), rate, RATE)[0]

        ways["audiofile+audresample"] = audeering
    except ImportError:
        print("audiofile or audresample is not installed, and left out: pip install 'vbx[bench]'")
    return ways


def write_clips(folder: Path, seconds: list[float], clips: int, seed: int) -> dict[str, list[str]]:
    """Clips of tones, their harmonics and noise, by what they are."""
    rng, found = np.random.default_rng(seed), defaultdict(list)
    middle = sorted(seconds)[len(seconds) // 2]
    for label, (suffix, subtype) in ENCODINGS.items():
        for rate in (16000, 22050, 44100, 48000):
            for channels in (1, 2):
                for length in sorted(seconds) if label == "wav 16 bit" else [middle]:
                    for clip in range(clips):
                        t = np.arange(round(length * rate * rng.uniform(0.9, 1.1)))[:, None] / rate
                        tone = sum(np.sin(2 * np.pi * rng.uniform(90, 300) * k * t) / k for k in range(1, 9))
                        samples = 0.1 * tone + 0.02 * rng.standard_normal((len(t), channels))
                        path = folder / f"{subtype}-{rate}-{channels}-{length}-{clip}.{suffix}"
                        soundfile.write(path, samples, rate, subtype=subtype)
                        found[f"{label:<11}{rate / 1000:>6g} kHz  {channels} ch  {length:>4g} s"].append(str(path))
    return found


def list_files(folder: Path) -> dict[str, list[str]]:
    """The files of a folder, 200 of a kind at most."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        try:
            info = soundfile.info(path)
        except (soundfile.LibsndfileError, TypeError):
            continue
        found[f"{path.suffix[1:]:<11}{info.samplerate / 1000:>6g} kHz  {info.channels} ch"].append(str(path))
    return {label: paths[:: math.ceil(len(paths) / 200)] for label, paths in found.items()}


def take_turn(way: Way, paths: list[str]) -> list[int]:
    """CPU time of each of some calls, in ns, behind some that warm up."""
    taken = []
    for turn in range(2 + math.ceil(12 / len(paths))):
        for path in paths:
            began = time.process_time_ns()
            way(path)
            if turn > 1:
                taken.append(time.process_time_ns() - began)
    return taken


def measure(ways: Mapping[str, Way], paths: list[str], rounds: int) -> dict[str, float]:
    """CPU time of each way, in µs a file."""
    for path in paths:  # soundfile.read seeks first, after which an MP3 decoder rounds differently
        np.testing.assert_allclose(ways["vbx"](path), with_soundfile(path), atol=1e-6, rtol=0, err_msg=path)
    taken: dict[str, list[int]] = defaultdict(list)
    for _ in range(rounds):
        for name in ways:
            receiver, sender = multiprocessing.Pipe(duplex=False)
            turn = multiprocessing.get_context("fork").Process(
                target=lambda way=ways[name], sender=sender: sender.send(take_turn(way, paths))
            )
            turn.start()
            taken[name] += receiver.recv()
            turn.join()
    return {name: statistics.median(times) / 1000 for name, times in taken.items()}


def describe_machine() -> str:
    names = ("soundfile", "soxr", "librosa", "audiofile", "audresample", "numpy")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    cpu = platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    library = soundfile.__libsndfile_version__
    return f"{cpu}, one core; Python {platform.python_version()}, libsndfile {library}, {', '.join(versions)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.5, 2.3, 5.0])
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(describe_machine())
    ways = list_ways()
    print(f"{'µs a file':<36}" + "".join(f"{name:>{max(len(name), 8) + 2}}" for name in ways) + "   ratio")
    ratios = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        soundfile.write(f"{name}/first.wav", np.zeros(4800), 48000)
        for way in ways.values():  # what is imported late is imported now
            way(f"{name}/first.wav")
        kinds = list_files(args.folder) if args.folder else write_clips(Path(name), args.seconds, args.clips, args.seed)
        for label, paths in kinds.items():
            times = measure(ways, paths, args.rounds)
            row = "".join(f"{taken:>{max(len(way), 8) + 2}.0f}" for way, taken in times.items())
            ratio = times["librosa"] / times["vbx"] if "librosa" in times else math.nan
            ratios[label[:11].strip() + (", mono" if " 1 ch" in label else ", stereo")].append(ratio)
            print(f"{label:<36}{row}{ratio:>8.2f}", flush=True)
    print("\nlibrosa / vbx, geometric mean (least)")
    for label, found in ratios.items():
        print(f"{label:<20}{statistics.geometric_mean(found):>6.2f} ({min(found):.2f})")


if __name__ == "__main__":
    main()
