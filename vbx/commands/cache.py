"""`vbx cache …` and `vbx audit`: what is there, whether it is whole, and getting it out."""

from pathlib import Path
from typing import Annotated

import typer

from vbx.commands.options import Cache, Checkpoints, Json, only_corpus, read_pairs
from vbx.commands.output import note, print_json, print_rows

app = typer.Typer(help="Look into the cache, check it, tidy it, export from it.", no_args_is_help=True)

OneCorpus = Annotated[str | None, typer.Option("--corpus", help="Corpus in the cache; needed if there are several.")]
DEFAULT = Path("vbx-cache")


@app.command("ls")
def ls(cache: Cache = DEFAULT, json: Json = False) -> None:
    """List corpora and what is cached of them."""
    from vbx.cache.layout import read_commits, read_layouts
    from vbx.cache.store import Store

    store = Store(cache)
    rows = []
    for corpus in store.corpora():
        table = store.label_table(corpus)
        mine = set(table.rows.tolist()) - {-1}
        for folder, spec in store.specs(corpus).items():
            for output, layout in read_layouts(folder).items():
                commits = read_commits(folder, output).values()
                rows.append(
                    {
                        "corpus": corpus,
                        "utterances": len(table.ids),
                        "encoder": folder.name,
                        "output": output,
                        "dim": layout.dim,
                        "vectors": len(mine & {row for c in commits for row in c.present}),
                        "failed": len(mine & {row for c in commits for row in c.failures}),
                        "MB": round(sum(size for c in commits for size, _ in c.files.values()) / 1e6, 3),
                        "format": layout.format,
                        "model": spec.model,
                    }
                )
        if not store.specs(corpus):
            rows.append({"corpus": corpus, "utterances": len(table.ids)})
    if not rows and not json:
        note(f"the cache {str(store.root)!r} is empty; `vbx extract CORPUS` fills it")
        return
    print_rows(rows, json)


@app.command("check")
def check(cache: Cache = DEFAULT, corpus: OneCorpus = None, json: Json = False) -> None:
    """Read every byte and name each damaged, missing or foreign file; ends with 1 if there is one."""
    from vbx.cache.check import check_cache
    from vbx.cache.store import Store

    store = Store(cache)
    if corpus:
        store.folder(corpus)
    findings = check_cache(store, corpus)
    print_rows([{"path": f.path, "problem": f.problem, "detail": f.detail} for f in findings], json)
    bad = [f for f in findings if f.problem != "leftover"]
    note(f"{len(bad)} problems, {len(findings) - len(bad)} leftovers in {len(store.corpora())} corpora")
    if bad:
        note("`vbx cache drop --damaged` cuts it out, then `vbx extract` makes it again")
        raise typer.Exit(1)


@app.command("why")
def why(
    feature: Annotated[str, typer.Argument(help="Feature, such as egemaps.")],
    cache: Cache = DEFAULT,
    corpus: OneCorpus = None,
    checkpoint: Checkpoints = None,
    json: Json = False,
) -> None:
    """Say why a feature would be extracted again: which field of its spec differs from what is there."""
    from vbx.cache.store import Store
    from vbx.cache.why import explain
    from vbx.errors import CheckpointError, CorpusError, MissingExtra
    from vbx.extract.derive import foresee_jobs
    from vbx.extract.plan import Settings

    store = Store(cache)
    name = corpus or only_corpus(store.corpora())
    store.folder(name)
    specs = {}
    try:
        for job in foresee_jobs([feature], read_pairs(checkpoint, "--checkpoint"), name, store, Settings()):
            specs.update({part.encoder: job.spec for _, part in job.parts})
    except (CheckpointError, CorpusError, MissingExtra) as error:
        note(f"weights are not compared: {error}")
    rows = explain(store, name, feature, specs)
    if json:
        print_json(rows)
        return
    for row in rows:
        print(f"{row['part']}: {row['folder'] or 'nothing there'}: {row['verdict']}")


@app.command("gc")
def gc(cache: Cache = DEFAULT, json: Json = False) -> None:
    """Remove what killed processes left behind; vectors and foreign files are never touched."""
    from vbx.cache.store import Store
    from vbx.cache.tidy import collect_leftovers

    removed = collect_leftovers(Store(cache))
    print_rows([{"removed": f.path} for f in removed], json)
    note(f"{len(removed)} files removed")


@app.command("drop")
def drop(
    feature: Annotated[
        str | None, typer.Argument(help="Feature whose vectors go, NAME or NAME#KEY; all if left out.")
    ] = None,
    cache: Cache = DEFAULT,
    corpus: OneCorpus = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only units with failures, to try these again.")] = False,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Only what `check` finds damaged, in all corpora.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Drop vectors; `vbx extract` makes them again."""
    from vbx.cache.feature import read_feature
    from vbx.cache.store import Store
    from vbx.cache.tidy import drop_corpus, drop_damaged, drop_units

    store = Store(cache)
    if damaged:
        note(f"{len(drop_damaged(store))} damaged or missing files cut out; run `vbx extract` again")
        return
    name = corpus or only_corpus(store.corpora())
    parts = read_feature(feature).parts if feature else ()
    folders = [store.find(name, part)[0] for part in parts] or sorted(store.specs(name))
    what = ", ".join(folder.name for folder in folders) if feature or failed else f"corpus {name} with all its vectors"
    if not yes:
        typer.confirm(f"Drop {'failed units of ' if failed else ''}{what}?", abort=True)
    if feature or failed:
        note(f"{sum(drop_units(folder, failed_only=failed) for folder in folders)} units dropped")
    else:
        drop_corpus(store, name)
        note(f"corpus {name} dropped")


@app.command("export")
def export(
    feature: Annotated[str, typer.Argument(help="Feature, such as egemaps or egemaps+w2v2-R-vad.")],
    to: Annotated[str, typer.Option(help="hdf5, npz, parquet or csv.")] = "hdf5",
    out: Annotated[Path | None, typer.Option(help="The file; CORPUS-FEATURE.SUFFIX if left out.")] = None,
    cache: Cache = DEFAULT,
    corpus: OneCorpus = None,
) -> None:
    """Write a feature with ids and labels into one file."""
    from vbx.cache.export import export_vectors
    from vbx.cache.store import Store

    store = Store(cache)
    name = corpus or only_corpus(store.corpora())
    suffix = {"hdf5": "h5"}.get(to, to)
    path = out or Path(f"{name}-{feature.replace('/', '-').replace(':', '-')}.{suffix}")
    vectors = store.load_vectors(name, feature)
    export_vectors(vectors, path, to)
    note(f"{path}: {vectors.x.shape[0]} vectors of {vectors.x.shape[1]} numbers")


def audit(
    corpus: Annotated[Path, typer.Argument(help="Folder of the corpus, where the audio is.")],
    feature: Annotated[str, typer.Option("--feature", "-f", help="Feature to audit.")] = "egemaps",
    cache: Cache = DEFAULT,
    checkpoint: Checkpoints = None,
    sample: Annotated[int, typer.Option(min=1, help="Utterances to encode again.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
    reader: Annotated[str | None, typer.Option(help="Reader, as for `vbx extract`.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the corpus, as for `vbx extract`.")] = None,
    tolerance: Annotated[float, typer.Option(help="Largest relative L2 difference that is well.")] = 1e-5,
    json: Json = False,
) -> None:
    """Encode a random sample of the cache again, one clip at a time, and print the largest difference."""
    from dataclasses import asdict

    from vbx.cache.store import Store
    from vbx.extract.audit import audit_vectors
    from vbx.extract.corpus import read_corpus

    pairs = read_pairs(checkpoint, "--checkpoint")
    found = read_corpus(corpus, reader, name=name)
    audits = audit_vectors(found, feature, Store(cache), sample=sample, checkpoints=pairs, seed=seed)
    print_rows([asdict(a) for a in audits], json)
    if any(a.max_relative > tolerance for a in audits):
        note(f"a vector differs by more than {tolerance:g}: the cache is not what this encoder gives")
        raise typer.Exit(1)
