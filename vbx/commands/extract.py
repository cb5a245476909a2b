"""`vbx extract`: stage 1."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from vbx.commands.options import Cache, Checkpoints, Device, Features, Json, read_pairs, read_part
from vbx.commands.output import note, print_json, print_rows

MOST_SHOWN = 10
"""Failures told one by one; all of them stand in `failures.parquet`."""


def extract(
    corpus: Annotated[Path, typer.Argument(help="Folder of the corpus, or a table that names its files.")],
    feature: Features = None,
    reader: Annotated[
        str | None,
        typer.Option(help="Reader, NAME or NAME:ARGUMENT (`vbx list readers`); found by itself if left out."),
    ] = None,
    cache: Cache = Path("vbx-cache"),
    checkpoint: Checkpoints = None,
    device: Device = "auto",
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that read audio and run CPU encoders; one a core if left out, 0 for none."),
    ] = None,
    part: Annotated[str, typer.Option(help="Do part I of N, as in 2/4; the parts may run side by side.")] = "1/1",
    format: Annotated[str, typer.Option(help="Format of new arrays: zarr or hdf5.")] = "zarr",
    label: Annotated[
        list[str] | None, typer.Option(help="Kind of a label column, NAME:class|number|text; repeatable.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the corpus; that of its folder if left out.")] = None,
    channel: Annotated[str, typer.Option(help="mix (mean of all channels), or a channel from 0.")] = "mix",
    resampler: Annotated[str, typer.Option(help="soxr-QQ, -LQ, -MQ, -HQ or -VHQ.")] = "soxr-HQ",
    precision: Annotated[
        str, typer.Option(help="Arithmetic of speech encoders: float32, bfloat16; on a GPU float16 and tf32, too.")
    ] = "float32",
    rehash: Annotated[
        bool, typer.Option("--rehash", help="Read every file again, even if its size and times are unchanged.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="End with 1 if an utterance gives no vector.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and what it costs.")] = False,
    json: Json = False,
) -> None:
    """Put the vectors of a corpus into the cache.

    What is there is not made again: typing the command again is how one resumes, and how labels are refreshed.
    Without -f the features that need no download are extracted: egemaps and compare.

    \b
    vbx extract corpus/
    vbx extract corpus/ -f w2v2-R-vad --checkpoint w2v2-R-vad=weights/
    vbx extract corpus/ --reader 'folders:(?P<speaker>\\d+)/(?P<emotion>\\w+)_.*' --dry-run
    """  # noqa: D301  (the b is click's mark for lines that stay as they are)
    from vbx.cache.store import Store
    from vbx.extract.corpus import read_corpus
    from vbx.extract.estimate import estimate_extraction
    from vbx.extract.pipeline import extract_vectors
    from vbx.extract.plan import Settings, count_cores
    from vbx.progress import Quiet, Shown

    if rehash:
        os.environ["VBX_REHASH"] = "1"  # of weights, too
    settings = Settings(
        channel=channel,
        resampler=resampler,
        precision=precision,
        workers=count_cores() if workers is None else workers,
        rehash=rehash,
        part=read_part(part),
        progress=Quiet() if json else Shown(),
    )
    store = Store(cache, format)
    found = read_corpus(corpus, reader, name=name, labels=read_pairs(label, "--label", ":"))
    features, checkpoints = feature or ["egemaps", "compare"], read_pairs(checkpoint, "--checkpoint")
    if dry_run:
        plan = asdict(estimate_extraction(found, features, store, checkpoints=checkpoints, settings=settings))
        _show(plan, json)
        return
    report = extract_vectors(found, features, store, device=device, checkpoints=checkpoints, settings=settings)
    _show(report.to_json(), json)
    if strict and report.failures:
        raise typer.Exit(1)


def _show(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    facts = {k: v for k, v in report.items() if isinstance(v, str | int | float)}
    print(", ".join(f"{value} {key}" if key != "corpus" else f"corpus {value}" for key, value in facts.items()))
    print_rows(list(report["features"]), as_json=False)
    if report.get("encoders"):
        print_rows(
            list(report["encoders"]), as_json=False, title="Shares of the wall time; what is near 1 bounds the run"
        )
    failures = list(report.get("failures", ()))
    for failure in failures[:MOST_SHOWN]:
        note(f"no vector: {failure['utterance']} ({failure['feature']}): {failure['reason']}")
    if len(failures) > MOST_SHOWN:
        note(f"... and {len(failures) - MOST_SHOWN} more, in failures.parquet beside the vectors")
    for text in report["notes"]:
        note(f"note: {text}")
