"""How fast is extraction beside what people write? Ratios from one run; nothing here is tuned yet.

    python benchmarks/extract_throughput.py [--clips 60] [--layers 4]

openSMILE: `Smile.process_files` beside `extract_vectors`. wav2vec2: transformers, one clip at a time, beside
`extract_vectors`, on a random checkpoint of the wav2vec2-large-robust shape cut to a few layers.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import opensmile
import torch
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

import vbx
from vbx.extract.synthesis import synthesise_corpus


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def make_checkpoint(folder: Path, layers: int) -> Path:
    """A random checkpoint of the shape of wav2vec2-large-robust."""
    torch.manual_seed(0)
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


def one_at_a_time(folder: Path, corpus: vbx.Corpus) -> dict[str, np.ndarray]:
    """The loop that everybody writes."""
    model = Wav2Vec2Model.from_pretrained(folder).eval()
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    found = {}
    for utterance in corpus.utterances:
        inputs = extractor(vbx.read_wave(utterance.path), sampling_rate=16000, return_tensors="pt")
        with torch.inference_mode():
            found[utterance.id] = model(**inputs).last_hidden_state[0].mean(0).numpy()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--layers", type=int, default=4)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        tmp = Path(name)
        corpus = vbx.read_corpus(synthesise_corpus(tmp / "bursts", clips_per_speaker=max(args.clips // 12, 1)))
        paths = [str(u.path) for u in corpus.utterances]
        print(f"{len(paths)} clips; seconds, and how many times as fast as the loop beside it")
        for feature, kind in (("egemaps", "eGeMAPSv02"), ("compare", "ComParE_2016")):
            smile = opensmile.Smile(opensmile.FeatureSet[kind], opensmile.FeatureLevel.Functionals)
            loop = seconds(lambda smile=smile: smile.process_files(paths))
            ours = seconds(lambda f=feature: vbx.extract_vectors(corpus, [f], vbx.Store(tmp / f), device="cpu"))
            print(f"{feature:<12} process_files {loop:7.2f}   vbx {ours:7.2f}   ratio {loop / ours:5.2f}")
        checkpoint = make_checkpoint(tmp / "weights", args.layers)
        reference: dict[str, np.ndarray] = {}
        loop = seconds(lambda: reference.update(one_at_a_time(checkpoint, corpus)))
        store, where = vbx.Store(tmp / "w2v2"), {"w2v2-R": str(checkpoint)}
        ours = seconds(lambda: vbx.extract_vectors(corpus, ["w2v2-R"], store, device="cpu", checkpoints=where))
        vectors = store.load_vectors(corpus.name, "w2v2-R")
        gaps = [
            np.linalg.norm(x - reference[u]) / np.linalg.norm(reference[u])
            for u, x in zip(vectors.ids, vectors.x, strict=True)
        ]
        print(f"{'w2v2-R':<12} transformers  {loop:7.2f}   vbx {ours:7.2f}   ratio {loop / ours:5.2f}")
        print(f"largest relative L2 difference to transformers, one clip at a time: {max(gaps):.1e}")


if __name__ == "__main__":
    main()
