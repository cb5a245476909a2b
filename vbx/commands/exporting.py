"""Export of a head, alone or behind its encoder, with its model card."""

from collections.abc import Mapping
from pathlib import Path

from onnx import checker, compose

from vbx.cache.store import Store
from vbx.commands.inference import find_jobs
from vbx.commands.output import note
from vbx.errors import CacheError, UnknownName
from vbx.extract.graphs import make_encoder_graph
from vbx.heads.board import load_head, read_results
from vbx.heads.card import CorpusFacts, write_card
from vbx.heads.export import INPUT, export_onnx, export_torch, make_onnx, put_props, write_onnx
from vbx.heads.head import Head

SIGNAL = "signal"
"""Name of the input of a model with its encoder, that of audEERING's releases."""


def export_head(name: str, out: Path, kind: str, folder: Path, store: Store, checkpoints: Mapping[str, str]) -> None:
    """Export the head of a run.

    Args:
        name: of the run, as `load_head` takes it
        out: folder of results
        kind: `torch`, `onnx` or `onnx-with-encoder`
        folder: where to; made if it is not there
        store: the cache; only codebooks and what the card says of the corpus come from it
        checkpoints: name of a feature, encoder or model to where its weights lie

    Raises:
        VbxError: if it cannot be exported so
    """
    head = load_head(out, name)
    if kind == "torch":
        export_torch(head, folder)
    elif kind == "onnx":
        export_onnx(head, folder)
    else:
        export_with_encoder(head, folder, store, checkpoints)
    write_card(head, kind, folder, read_results(out), describe_corpus(store, head.corpus))


def export_with_encoder(head: Head, folder: Path, store: Store, checkpoints: Mapping[str, str]) -> None:
    """Write one model from `signal (1, T)` to the outputs of a head, which `audonnx.load(folder)` reads.

    Raises:
        CheckpointError: if the encoder is not the one that the head learnt from, or cannot be in a graph
        RecipeError: if the head cannot
    """
    behind = make_onnx(head, (SIGNAL, INPUT))
    jobs = find_jobs(head, store, checkpoints)
    for job in jobs:
        if job.spec.precision != "float32":
            note(f"the head learnt from vectors in {job.spec.precision}; the graph computes in float32")
    encoder = make_encoder_graph(jobs)
    model = compose.merge_models(encoder, behind, io_map=[(encoder.graph.output[0].name, INPUT)])
    put_props(model, head)
    checker.check_model(model)
    write_onnx(head, model, folder)


def describe_corpus(store: Store, name: str) -> CorpusFacts:
    """What the cache knows of a corpus; nothing if it is not there."""
    try:
        labels = store.label_table(name).labels
    except (UnknownName, CacheError):
        return CorpusFacts()
    known = labels.dropna(subset="split").groupby("split", sort=False)
    order = [split for split in ("train", "dev", "test") if split in known.groups]
    speakers = known["speaker"].nunique().to_dict() if "speaker" in labels else {}
    return CorpusFacts(
        {split: int(known.size()[split]) for split in order},
        {split: int(speakers[split]) for split in order if speakers.get(split)},
    )
