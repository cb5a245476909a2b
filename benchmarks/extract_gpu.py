"""How fast is wav2vec2 on a GPU, end to end, beside the loop that everybody writes and the card's own peak?

    python benchmarks/extract_gpu.py [--layers 24] [--precision float16] [--clips 59201]
    python benchmarks/extract_gpu.py --device cpu --clips 20 --layers 2 --tiny      # the script itself, without a GPU

Clips have the lengths of HUME-VB: 36.8 h in 59,201, log-normal with a sigma of 0.5 (fewer clips, the same lengths). The
checkpoint is random, of the shape of wav2vec2-large-robust. Files are written first and so are in memory; ours includes
everything that `vbx extract` does: digests, decoding, loading the weights, the cache.

Written without a GPU at hand: on one, this script is not yet run.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch
import transformers
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

import vbx
from vbx.cache.feature import read_feature
from vbx.cache.spec import EncoderSpec
from vbx.extract.encoders import wav2vec2
from vbx.extract.encoders._packed_attention import PRECISIONS
from vbx.extract.encoders._packed_encoder import PackedEncoder, open_gpu_encoder
from vbx.extract.encoders._packed_runner import arithmetic
from vbx.extract.encoders._speech_models import load_speech_model
from vbx.extract.plan import Settings
from vbx.extract.report import Report

MEAN_S = 36.8 * 3600 / 59201
SIGMA = 0.5


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def write_clips(folder: Path, clips: int, rate: int) -> np.ndarray:
    """Write clips of noise, no two alike; their lengths in seconds."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(MEAN_S) - SIGMA**2 / 2, SIGMA, clips), 0.1, 60)
    noise = (rng.standard_normal(120 * rate) * 3000).astype(np.int16)
    folder.mkdir()
    for number, length in enumerate(lengths):
        start = int(rng.integers(len(noise) // 2))
        soundfile.write(folder / f"{number:05d}.wav", noise[start : start + int(length * rate)], rate)
    return lengths


def make_checkpoint(folder: Path, layers: int, tiny: bool) -> Wav2Vec2Config:
    """A random checkpoint of the shape of wav2vec2-large-robust, or a narrow one of the same architecture."""
    torch.manual_seed(0)
    widths = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096, "conv_dim": [512] * 7}
    narrow = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "conv_dim": [32] * 7}
    config = Wav2Vec2Config(
        **(narrow if tiny else widths),
        num_hidden_layers=layers,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        conv_bias=True,
    )
    Wav2Vec2Model(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)
    return config


def count_operations(config: Wav2Vec2Config, lengths: np.ndarray) -> float:
    """Floating-point operations that the clips need, two a multiplication; norms and the like are not counted."""
    total, channels = 0.0, 1
    frames = np.floor(lengths * 16000)
    for width, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
        frames = np.floor((frames - kernel) / stride) + 1
        total += 2 * frames.sum() * width * channels * kernel
        channels = width
    dim, inner = config.hidden_size, config.intermediate_size
    positions = dim * config.num_conv_pos_embeddings / config.num_conv_pos_embedding_groups
    per_frame = dim * (channels + positions) + config.num_hidden_layers * (4 * dim * dim + 2 * dim * inner)
    return total + 2 * frames.sum() * per_frame + config.num_hidden_layers * 4 * dim * (frames**2).sum()


def matmul_peak(device: str, dtype: torch.dtype, size: int) -> float:
    """Operations a second of a product of two random square matrices, median of ten."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def product() -> None:
        torch.matmul(left, right)
        if device != "cpu":
            torch.cuda.synchronize()

    for _ in range(3):
        product()
    return 2 * size**3 / float(np.median([seconds(product) for _ in range(10)]))


def one_at_a_time(checkpoint: Path, paths: list[Path], device: str) -> tuple[np.ndarray, float]:
    """The loop that everybody writes, and its seconds; the first clips are for warming up."""
    model = Wav2Vec2Model.from_pretrained(checkpoint).eval().to(device)
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(checkpoint)

    @torch.inference_mode()
    def embed(path: Path) -> np.ndarray:
        inputs = extractor(vbx.read_wave(path), sampling_rate=16000, return_tensors="pt").to(device)
        return model(**inputs).last_hidden_state[0].mean(0).cpu().numpy()

    for path in paths[:5]:
        embed(path)
    found: list[np.ndarray] = []
    spent = seconds(lambda: found.extend(embed(path) for path in paths))
    return np.stack(found), spent


def remember_encoders() -> list[PackedEncoder]:
    """Have the wav2vec2 plugin make encoders of packs, on a CPU too; those it has made."""
    made: list[PackedEncoder] = []

    def load(spec: EncoderSpec, checkpoint: Path, device: str) -> PackedEncoder:
        encoder = open_gpu_encoder(spec, load_speech_model(checkpoint, device), device)
        if not isinstance(encoder, PackedEncoder):
            sys.exit("vbx does not trust its packs on this device, so there is nothing to measure")
        made.append(encoder)
        return encoder

    wav2vec2.load = load  # type: ignore[assignment]
    wav2vec2.PRECISIONS = tuple(PRECISIONS)  # type: ignore[attr-defined]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=59201)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--precision", choices=PRECISIONS, help="float16 on a GPU, float32 on a CPU")
    parser.add_argument("--naive", type=int, default=500, help="clips that the loop is timed on")
    parser.add_argument("--rate", type=int, default=16000, help="sample rate of the files in Hz")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a narrow model, to try this script")
    args = parser.parse_args()
    if args.device != "cpu" and not torch.cuda.is_available():
        sys.exit(
            "extract_gpu.py needs a CUDA device; --device cpu --clips 20 --layers 2 --tiny tries the script itself"
        )
    precision = args.precision or ("float32" if args.device == "cpu" else "float16")
    card = platform.machine() if args.device == "cpu" else torch.cuda.get_device_name(args.device)
    print(
        f"{card}, {len(os.sched_getaffinity(0))} cores; Python {platform.python_version()}, torch {torch.__version__},"
    )
    print(f"transformers {transformers.__version__}, vbx {vbx.__version__}; {args.layers} layers, {precision}")
    with tempfile.TemporaryDirectory() as name:
        tmp = Path(name)
        lengths = write_clips(tmp / "clips", args.clips, args.rate)
        config = make_checkpoint(tmp / "weights", args.layers, args.tiny)
        compare(tmp, config, lengths, precision, args)


def compare(tmp: Path, config: Wav2Vec2Config, lengths: np.ndarray, precision: str, args: argparse.Namespace) -> None:
    """Time the loop and `extract_vectors`, and print what came of it."""
    with arithmetic(precision):
        peak = matmul_peak(args.device, PRECISIONS[precision][0], 512 if args.tiny else 8192)
    corpus = vbx.read_corpus(tmp / "clips")
    chosen = np.random.default_rng(1).permutation(len(corpus.utterances))[: args.naive]
    sample = [corpus.utterances[i] for i in chosen]
    reference, spent = one_at_a_time(tmp / "weights", [u.path for u in sample], args.device)
    naive = spent / len(sample) * len(lengths)
    made, store = remember_encoders(), vbx.Store(tmp / "cache")
    settings, where = Settings(precision=precision), {"w2v2-R": str(tmp / "weights")}
    reports: list[Report] = []
    ours = seconds(
        lambda: reports.append(
            vbx.extract_vectors(corpus, ["w2v2-R"], store, device=args.device, checkpoints=where, settings=settings)
        )
    )
    audio, tally, share = float(lengths.sum()), made[0].tally, reports[0].encoders[0]
    operations = count_operations(config, lengths)
    print(f"{len(lengths)} clips, {audio / 3600:.2f} h of audio; matmul peak {peak / 1e12:.2f} TFLOP/s")
    print(f"transformers, one clip at a time {naive:9.1f} s {audio / naive:8.0f} x real time, by {len(sample)} clips")
    print(f"vbx, end to end                  {ours:9.1f} s {audio / ours:8.0f} x real time, ratio {naive / ours:.1f}")
    print(f"{100 * operations / ours / peak:.1f} % of the matmul peak, end to end")
    print(f"the pass took {share.seconds:.1f} s: reading {share.reading:.2f}, encoding {share.encoding:.2f}, ", end="")
    print(f"writing {share.writing:.2f}, waiting {share.waiting:.2f} of it")
    print(f"{tally.packs} packs, {100 * (1 - tally.frames / tally.room):.2f} % of their frames are padding")
    if tally.busy_s:
        idle = tally.idle_s / (tally.busy_s + tally.idle_s)
        busy = operations / tally.busy_s / peak
        print(f"the GPU computed for {tally.busy_s:.1f} s at {100 * busy:.1f} % of the peak ", end="")
        print(f"and was idle {100 * idle:.1f} % of the time between its first pack and its last")
    else:
        print("there is no GPU, so how long it was idle is not measured")
    feature = read_feature("w2v2-R")
    parts = tuple(replace(part, spec=replace(part.spec, precision=precision)) for part in feature.parts)
    vectors = store.load_vectors(corpus.name, replace(feature, parts=parts))
    row = {identity: i for i, identity in enumerate(vectors.ids)}
    found = np.stack([vectors.x[row[u.id]] for u in sample]).astype(np.float64)
    error = np.linalg.norm(found - reference, axis=1)
    plain = (error / np.linalg.norm(reference, axis=1)).max()
    centred = (error / np.linalg.norm(reference - reference.mean(0), axis=1)).max()
    print(f"largest relative L2 difference to transformers: {plain:.1e}, about the mean vector {centred:.1e}")


if __name__ == "__main__":
    main()
