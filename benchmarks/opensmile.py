"""How fast is openSMILE here beside the package that it comes in? CPU time of one core, then wall time of all.

    python benchmarks/opensmile.py [--corpus FOLDER] [--clips 24] [--rounds 3] [--workers N]

Each way reads the same files, and the functionals are compared, bit by bit; the ways take turns within a round, and
medians over the rounds are shown. Much of what is saved is saved once a clip, so the ratio falls as clips get longer:
the second table shows how. The third hands the corpus, twice over, to processes with an encoder each, made before the
clock starts, and to `process_files` with as many threads: the best round, as other work on the machine only takes away.
"""

import argparse
import importlib.machinery
import importlib.util
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType

import numpy as np

import vbx
from vbx.cache.feature import list_encoders
from vbx.extract.encoder import Encoder, load_encoder, resolve_spec
from vbx.extract.synthesis import synthesise_corpus


def find_package() -> ModuleType:
    """The package of that name, which this file hides from every script of this folder, and which it gives way to."""
    here = Path(__file__).resolve().parent
    elsewhere = [entry for entry in sys.path if Path(entry).resolve() != here]
    spec = importlib.machinery.PathFinder.find_spec("opensmile", elsewhere)
    assert spec is not None and spec.loader is not None, "openSMILE is not installed"
    package = sys.modules["opensmile"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return package


opensmile = find_package()
RATE = 16000
FEATURES = {
    "egemaps": ("eGeMAPSv02", ("func",)),
    "compare": ("ComParE_2016", ("func",)),
    "compare-lld": ("ComParE_2016", ("lld", "lld_de")),
}
Way = Callable[[Sequence[str]], list[np.ndarray]]
_encoder: Encoder | None = None


def machine() -> str:
    """What the times were taken on."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), cpu)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("opensmile", "numpy", "pandas"))
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    ours = f"Python {platform.python_version()}, vbx {vbx.__version__}"
    return f"{len(os.sched_getaffinity(0))} x {cpu}{load}; {ours}, {versions}"


def load(feature: str) -> Encoder:
    return load_encoder(resolve_spec(list_encoders()[feature], None))


def encode(encoder: Encoder, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
    name = encoder.outputs[0].name
    return [np.asarray(encoder.encode([wave], [name])[0][name]) for wave in waves]


def ways(feature: str) -> dict[str, Way]:
    """Ours and the package's three, from files to a list of arrays `(D,)`, or for frames the package's tables."""
    model, levels = FEATURES[feature]
    smiles = [opensmile.Smile(opensmile.FeatureSet[model], opensmile.FeatureLevel(level)) for level in levels]
    encoder = load(feature)
    encode(encoder, [np.zeros(RATE, np.float32)])

    def by_files(paths: Sequence[str]) -> list[np.ndarray]:
        return [row for smile in smiles for row in smile.process_files(paths).to_numpy()]

    def by_file(paths: Sequence[str]) -> list[np.ndarray]:
        return [row for smile in smiles for path in paths for row in smile.process_file(path).to_numpy()]

    def by_signal(paths: Sequence[str]) -> list[np.ndarray]:
        waves = [vbx.read_wave(path) for path in paths]
        return [row for smile in smiles for wave in waves for row in smile.process_signal(wave, RATE).to_numpy()]

    return {
        "vbx": lambda paths: encode(encoder, [vbx.read_wave(path) for path in paths]),
        "process_files": by_files,
        "process_file": by_file,
        "process_signal": by_signal,
    }


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    began = clock()
    work()
    return clock() - began


def medians(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of CPU of each, taken in turn."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            taken[name].append(seconds(work))
    return {name: statistics.median(times) for name, times in taken.items()}


def per_core(paths: Sequence[str], audio_s: float, rounds: int) -> None:
    print("\nOne core: CPU ms a clip, decoding included, and in brackets how many times as long as vbx takes")
    print(
        f"{'feature':<14}{'vbx':>8}{'x real time':>13}{'process_files':>20}{'process_file':>20}{'process_signal':>20}"
    )
    for feature in FEATURES:
        made = ways(feature)
        found = {name: way(paths[:8]) for name, way in made.items()}
        taken = medians({name: lambda way=way: way(paths) for name, way in made.items()}, rounds)
        ours = taken.pop("vbx")
        cells = "".join(f"{1e3 * t / len(paths):>12.1f} ({t / ours:.2f})" for t in taken.values())
        print(f"{feature:<14}{1e3 * ours / len(paths):>8.1f}{audio_s / ours:>12.0f}x{cells}   {verdict(found)}")


def verdict(found: Mapping[str, list[np.ndarray]]) -> str:
    """Whether the vectors are those of the package; frames are left to the tests, as the package gives two tables."""
    if found["vbx"][0].ndim > 1:
        return ""
    same = all(np.array_equal(a, b) for a, b in zip(found["vbx"], found["process_files"], strict=True))
    return "every bit the same" if same else "VALUES DIFFER"


def by_length(rounds: int) -> None:
    print("\nOne core, a made-up signal in memory: CPU ms a clip, vbx / process_signal (ratio)")
    lengths = (0.5, 1, 2, 4, 8)
    print(f"{'feature':<14}" + "".join(f"{f'{length:g} s':>22}" for length in lengths))
    noise = 0.1 * np.random.default_rng(0).standard_normal(8 * RATE).astype(np.float32)
    for feature in ("egemaps", "compare"):
        cells = "".join(f"{compare(feature, noise[: round(length * RATE)], 2 * rounds + 1):>22}" for length in lengths)
        print(f"{feature:<14}{cells}")


def compare(feature: str, wave: np.ndarray, rounds: int) -> str:
    encoder, smile = load(feature), opensmile.Smile(FEATURES[feature][0], "func")
    works = {"vbx": lambda: encode(encoder, [wave]), "package": lambda: smile.process_signal(wave, RATE)}
    medians(works, 1)
    taken = medians(works, rounds)
    ours, theirs = 1e3 * taken["vbx"], 1e3 * taken["package"]
    return f"{ours:.1f} / {theirs:.1f} ({theirs / ours:.2f})"


def start_worker(feature: str) -> None:
    """Give a process its encoder, with its graph made."""
    global _encoder
    _encoder = load(feature)
    encode(_encoder, [np.zeros(RATE, np.float32)])


def work(path: str) -> float:
    """Seconds of CPU for one file."""
    encoder = _encoder
    assert encoder is not None
    return seconds(lambda: encode(encoder, [vbx.read_wave(path)]))


def scaling(paths: Sequence[str], rounds: int, workers: int) -> None:
    print(f"\nAll cores: wall s with 1 and with {workers} workers, share of perfect scaling; CPU ms a clip with each")
    context = multiprocessing.get_context("spawn")
    for feature in ("egemaps", "compare"):
        wall: dict[tuple[str, int], list[float]] = defaultdict(list)
        cpu: dict[int, list[float]] = defaultdict(list)
        with context.Pool(1, start_worker, (feature,)) as one, context.Pool(workers, start_worker, (feature,)) as many:
            pools = {1: one, workers: many}
            for count, pool in pools.items():
                pool.map(work, paths[: 4 * count], chunksize=1)
            for _ in range(rounds):
                for count, pool in pools.items():
                    began = time.perf_counter()
                    cpu[count].append(sum(pool.map(work, paths, chunksize=1)))
                    wall["vbx", count].append(time.perf_counter() - began)
                    smile = opensmile.Smile(FEATURES[feature][0], "func", num_workers=count)
                    taken = seconds(lambda smile=smile: smile.process_files(paths), time.perf_counter)
                    wall["process_files", count].append(taken)
        for way in ("vbx", "process_files"):
            alone, together = min(wall[way, 1]), min(wall[way, workers])
            print(f"{feature:<14}{way:<15}{alone:>7.2f}{together:>7.2f}{alone / together / workers:>7.0%}", end="")
            costs = "".join(f"{1e3 * min(cpu[count]) / len(paths):>8.1f}" for count in pools)
            print(costs if way == "vbx" else f"   vbx is {together / min(wall['vbx', workers]):.2f} times as fast")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="any corpus that vbx reads, at 16 kHz; synthetic bursts if absent")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning, module="opensmile")
    with tempfile.TemporaryDirectory() as tmp:
        folder = args.corpus or synthesise_corpus(Path(tmp) / "bursts", clips_per_speaker=-(-args.clips // 12))
        files = sorted({str(utterance.path) for utterance in vbx.read_corpus(folder).utterances})
        paths = files[:: max(len(files) // args.clips, 1)][: args.clips]
        audio_s = sum(len(vbx.read_wave(path)) for path in paths) / RATE
        print(machine())
        print(f"{len(paths)} clips of {audio_s / len(paths):.2f} s on average; medians of {args.rounds} rounds")
        per_core(paths, audio_s, args.rounds)
        by_length(args.rounds)
        scaling(2 * paths, args.rounds, args.workers)


if __name__ == "__main__":
    main()
