"""`vbx heads predict` and `vbx heads export`: what a trained head is for."""

from pathlib import Path
from typing import Annotated

import typer

from vbx.commands.leaderboard import DEFAULT_CACHE, DEFAULT_OUT
from vbx.commands.options import Cache, Checkpoints, Device, Json, read_pairs
from vbx.commands.output import note, print_json

RunName = Annotated[str, typer.Argument(help="Key of a run or the start of one, or `best`.")]
Out = Annotated[Path, typer.Option("--out", envvar="VBX_HEADS", help="Folder of results.")]


def predict(
    run: RunName,
    audio: Annotated[list[Path] | None, typer.Argument(help="Audio files.")] = None,
    corpus: Annotated[str | None, typer.Option(help="Corpus in the cache, instead of files.")] = None,
    split: Annotated[str | None, typer.Option(help="train, dev or test of the corpus; all if left out.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Without calibration and intervals.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Also adversarial tasks and discriminators.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if a file gave no prediction.")] = False,
    cache: Cache = DEFAULT_CACHE,
    out: Out = DEFAULT_OUT,
    checkpoint: Checkpoints = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Predict from audio files, or for a corpus in the cache, as CSV or JSON.

    Audio is encoded by the weights that the head learnt from, or not at all. Probabilities are calibrated on dev;
    COLUMN.low and COLUMN.high hold a number with 90 % confidence, for audio like that of dev.
    """
    from vbx.cache.store import Store
    from vbx.commands.inference import encode_files, load_corpus
    from vbx.errors import RecipeError
    from vbx.heads.board import load_head
    from vbx.heads.predict import predict as predict_with

    head, store = load_head(out, run), Store(cache)
    if bool(audio) == bool(corpus):
        raise RecipeError("give either audio files or --corpus NAME")
    failures: dict[str, str] = {}
    if corpus:
        vectors = load_corpus(head, store, corpus, split)
    else:
        vectors, failures = encode_files(audio or [], head, store, read_pairs(checkpoint, "--checkpoint"), device)
    frame = predict_with(head, vectors, raw=raw, every=every)
    if json:
        print_json(frame.to_dict("records"))
    else:
        print(frame.to_csv(index=False), end="")
    for name, reason in failures.items():
        note(f"no prediction: {name}: {reason}")
    if failures:
        note(f"{len(failures)} of {len(failures) + len(frame)} files gave no prediction")
    if not head.calibration and not raw:
        note(
            "probabilities are not calibrated and numbers have no intervals: the head had no dev split to learn that on"
        )
    if failures and strict:
        raise typer.Exit(1)


def export(
    run: RunName,
    to: Annotated[
        str | None, typer.Option(help="torch (safetensors and JSON) or onnx (readable by audonnx); torch if left out.")
    ] = None,
    with_encoder: Annotated[
        bool, typer.Option("--with-encoder", help="One ONNX model from waveform to outputs.")
    ] = False,
    folder: Annotated[Path | None, typer.Option(help="Where to; head-RUN if left out.")] = None,
    cache: Cache = DEFAULT_CACHE,
    out: Out = DEFAULT_OUT,
    checkpoint: Checkpoints = None,
) -> None:
    """Export the head of a run, with its scaling, calibration and classes, and a model card.

    With --with-encoder the ONNX model takes a waveform `(1, T)` rather than a vector: wav2vec2, HuBERT, WavLM and
    ONNX models only.

    \b
    vbx heads export best --to onnx
    vbx heads export best --with-encoder --checkpoint w2v2-R-vad=PATH
    """  # noqa: D301  (the b is click's mark for lines that stay as they are)
    from vbx.cache.store import Store
    from vbx.commands.exporting import export_head
    from vbx.errors import RecipeError, UnknownName

    if to not in (None, "torch", "onnx"):
        raise UnknownName("export format", to, ["torch", "onnx"])
    if with_encoder and to == "torch":
        raise RecipeError("encoder and head are exported together as ONNX only: leave out --to, or give --to onnx")
    target = folder or Path(f"head-{'-'.join([run.partition('/')[0][:12], *run.split('/')[1:]])}")
    kind = "onnx-with-encoder" if with_encoder else to or "torch"
    export_head(run, out, kind, target, Store(cache), read_pairs(checkpoint, "--checkpoint"))
    note(f"exported to {target}, with a model card (README.md)")
