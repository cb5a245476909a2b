"""How fast is wav2vec2 on a CPU beside what people write? CPU time of one core, then wall time of all.

    python benchmarks/extract_throughput.py [--layers 4] [--clips 8] [--rounds 3] [--corpus FOLDER] [--seed 0]

A random checkpoint of the shape of wav2vec2-large-robust, cut to a few layers (audEERING's emotion model has 12),
and sounds of the lengths of speech. The ways take turns within a round; medians over the rounds are shown, and what a
first pass took, in which oneDNN makes machine code for lengths that it has not met. Errors are the largest over clips:
relative L2 to transformers one clip at a time, and the same after the mean over the clips is taken off both (random
weights give clips so alike that this is a hard measure). nkululeko's extraction is transformers one clip at a time.
"""

import argparse
import platform
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import audonnx
import numpy as np
import torch
from torch import nn
from torch.nn.utils.parametrize import remove_parametrizations
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

import vbx
from vbx.cache.spec import EncoderSpec
from vbx.extract.batching import make_batches
from vbx.extract.encoder import Encoder, load_encoder
from vbx.extract.encoders._onednn import has_bfloat16

SPEC = EncoderSpec("wav2vec2", "random", pooling="mean", window_s=30.0, overlap_s=2.0)
RATE = 16000
Way = Callable[[Sequence[np.ndarray]], np.ndarray]


def make_checkpoint(folder: Path, layers: int, seed: int) -> Path:
    """A random checkpoint of the shape of wav2vec2-large-robust."""
    torch.manual_seed(seed)
    config = Wav2Vec2Config(
        hidden_size=1024,
        num_hidden_layers=layers,
        num_attention_heads=16,
        intermediate_size=4096,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        conv_bias=True,
    )
    Wav2Vec2Model(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)
    return folder


def make_waves(count: int, seed: int) -> list[np.ndarray]:
    """Harmonic sounds and noise, 0.5 to 7.4 s, 2 s in the median."""
    rng = np.random.default_rng(seed)
    waves = []
    for seconds in np.clip(rng.lognormal(np.log(2.0), 0.5, count), 0.5, 7.4):
        t = np.arange(int(seconds * RATE)) / RATE
        pitch = rng.uniform(90, 300) * (1 + 0.05 * np.sin(2 * np.pi * rng.uniform(1, 6) * t))
        phase = 2 * np.pi * np.cumsum(pitch) / RATE
        tone = sum(np.sin(k * phase) / k for k in range(1, 12)) * (
            0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(1, 4) * t)
        )
        waves.append((0.1 * tone + 0.01 * rng.standard_normal(len(t))).astype(np.float32))
    return waves


def read_waves(folder: Path, count: int, seed: int) -> list[np.ndarray]:
    """Some of the files of a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".wav", ".flac"))
    chosen = np.random.default_rng(seed).permutation(len(paths))[:count]
    return [vbx.read_wave(paths[i]) for i in chosen]


class Graph(nn.Module):
    """What audEERING exports: normalisation, encoder and mean."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        mean = signal.mean(1, keepdim=True)
        variance = ((signal - mean) ** 2).mean(1, keepdim=True)
        return self.model((signal - mean) / torch.sqrt(variance + 1e-7)).last_hidden_state.mean(1)


def export(checkpoint: Path, path: Path) -> Path:
    """The checkpoint as an ONNX model for audonnx, its weight norm folded."""
    model = Wav2Vec2Model.from_pretrained(checkpoint, attn_implementation="eager").eval()
    remove_parametrizations(model.encoder.pos_conv_embed.conv, "weight")
    names = {"input_names": ["signal"], "output_names": ["hidden_states"], "dynamic_axes": {"signal": {1: "time"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Graph(model), (torch.randn(1, RATE),), str(path), opset_version=14, dynamo=False, **names)
    return path


def one_at_a_time(checkpoint: Path) -> Way:
    """The loop that everybody writes."""
    model = Wav2Vec2Model.from_pretrained(checkpoint).eval()
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(checkpoint)

    def encode(waves: Sequence[np.ndarray]) -> np.ndarray:
        rows = []
        for wave in waves:
            inputs = extractor(wave, sampling_rate=RATE, return_tensors="pt")
            with torch.inference_mode():
                rows.append(model(inputs.input_values).last_hidden_state[0].mean(0).numpy())
        return np.stack(rows)

    return encode


def padded(checkpoint: Path, budget_s: float = 12.0) -> Way:
    """Clips of like length in batches, padded, with a mask."""
    model = Wav2Vec2Model.from_pretrained(checkpoint).eval()
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(checkpoint)

    def encode(waves: Sequence[np.ndarray]) -> np.ndarray:
        rows = np.empty((len(waves), model.config.hidden_size), np.float32)
        order = sorted(range(len(waves)), key=lambda i: len(waves[i]))
        while order:
            size = next(
                n for n in range(len(order), 0, -1) if n == 1 or n * len(waves[order[n - 1]]) <= budget_s * RATE
            )
            batch, order = order[:size], order[size:]
            inputs = extractor([waves[i] for i in batch], sampling_rate=RATE, padding=True, return_tensors="pt")
            with torch.inference_mode():
                states = model(**inputs).last_hidden_state
            for i, state in zip(batch, states, strict=True):
                rows[i] = state[: (len(waves[i]) - 400) // 320 + 1].mean(0).numpy()
        return rows

    return encode


def by_audonnx(path: Path, threads: int) -> Way:
    model = audonnx.Model(str(path), num_workers=threads)
    return lambda waves: np.concatenate([model(wave, RATE).reshape(1, -1) for wave in waves])


def by_vbx(encoder: Encoder) -> Way:
    """In batches of the size that the encoder asks for, clips of like length together, as the pipeline does."""

    def encode(waves: Sequence[np.ndarray]) -> np.ndarray:
        rows: dict[int, np.ndarray] = {}
        order = sorted(range(len(waves)), key=lambda i: len(waves[i]))
        for batch in make_batches(((i, waves[i]) for i in order), lambda: int(encoder.batch_s * RATE)):
            encoded = encoder.encode([wave for _, wave in batch], ["hidden"])
            rows.update({row: outputs["hidden"] for (row, _), outputs in zip(batch, encoded, strict=True)})
        return np.stack([rows[i] for i in range(len(waves))])

    return encode


def make_ways(checkpoint: Path, graph: Path, threads: int) -> dict[str, Way]:
    torch.set_num_threads(threads)
    ways = {
        "transformers, one at a time": one_at_a_time(checkpoint),
        "transformers, sorted and padded": padded(checkpoint),
        "audonnx": by_audonnx(graph, threads),
        "vbx float32": by_vbx(load_encoder(SPEC, checkpoint)),
    }
    if has_bfloat16():
        ways["vbx bfloat16"] = by_vbx(load_encoder(replace(SPEC, precision="bfloat16"), checkpoint))
    if threads > 1:  # this one takes the cores that there are
        ways["vbx onnx:PATH"] = by_vbx(load_encoder(EncoderSpec("onnx", "model.onnx"), graph))
    return ways


def compare(ways: dict[str, Way], waves: Sequence[np.ndarray], rounds: int, clock: Callable[[], float]) -> None:
    """Run all ways in turns, and print the table."""
    seconds, rows = defaultdict(list), {}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            began = clock()
            rows[name] = way(waves)
            seconds[name].append(clock() - began)
    audio_s = sum(map(len, waves)) / RATE
    reference = next(iter(rows.values())).astype(np.float64)
    spread = np.linalg.norm(reference - reference.mean(0), axis=1)
    base = statistics.median(next(iter(seconds.values()))[1:])
    print(f"{'':<32} first s  median s  x real time  ratio  relative L2  centred")
    for name, (first, *later) in seconds.items():
        gap, middle = np.linalg.norm(rows[name] - reference, axis=1), statistics.median(later)
        errors = f"{max(gap / np.linalg.norm(reference, axis=1)):11.1e}  {max(gap / spread):7.1e}"
        print(f"{name:<32} {first:7.2f}  {middle:8.2f}  {audio_s / middle:11.1f}  {base / middle:5.2f}  {errors}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=Path, help="a folder of audio files, in place of synthetic sounds")
    parser.add_argument("--one-core", action="store_true", help="only the table of one core")
    args = parser.parse_args()
    waves = read_waves(args.corpus, args.clips, args.seed) if args.corpus else make_waves(args.clips, args.seed)
    threads = torch.get_num_threads()
    packages = ("vbx", "torch", "transformers", "onnxruntime", "audonnx")
    print(f"{cpu_name()}, {threads} cores;", ", ".join(f"{name} {metadata.version(name)}" for name in packages))
    print(f"{len(waves)} clips, {sum(map(len, waves)) / RATE:.1f} s of audio, {args.layers} layers")
    with tempfile.TemporaryDirectory() as name:
        checkpoint = make_checkpoint(Path(name) / "weights", args.layers, args.seed)
        graph = export(checkpoint, Path(name) / "model.onnx")
        print("\none core, CPU time")
        compare(make_ways(checkpoint, graph, 1), waves, args.rounds, time.process_time)
        if threads > 1 and not args.one_core:
            print(f"\n{threads} cores, wall time")
            compare(make_ways(checkpoint, graph, threads), waves, args.rounds, time.perf_counter)


def cpu_name() -> str:
    """The model of this CPU, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


if __name__ == "__main__":
    main()
