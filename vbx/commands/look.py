"""`vbx list`, `vbx show` and `vbx doctor`: what there is to use, and whether this machine can."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vbx.commands.options import Json
from vbx.commands.output import note, print_json, print_rows
from vbx.errors import UnknownName

if TYPE_CHECKING:
    from vbx.cache.spec import EncoderSpec

KINDS = ("features", "encoders", "readers", "losses", "metrics", "recipes", "corpora")


def list_(
    kind: Annotated[str, typer.Argument(help=f"One of: {', '.join(KINDS)}.")] = "features",
    cache: Annotated[str, typer.Option("--cache", envvar="VBX_CACHE", help="Cache, for `corpora`.")] = "vbx-cache",
    json: Json = False,
) -> None:
    """List what there is of a kind: features, encoders, readers, losses, metrics, recipes, corpora."""
    listers: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "features": _features,
        "encoders": lambda: _plugins("vbx.extract.encoders", "encoder"),
        "readers": lambda: _plugins("vbx.extract.readers", "reader"),
        "losses": lambda: _functions("vbx.heads.losses", "LOSSES", "loss"),
        "metrics": lambda: _functions("vbx.heads.metrics", "METRICS", "metric"),
        "recipes": _recipes,
        "corpora": lambda: _corpora(cache),
    }
    if kind not in listers:
        raise UnknownName("kind", kind, KINDS)
    print_rows(listers[kind](), json)
    if kind == "features" and not json:
        note("also hf:ORG/NAME[@REVISION], onnx:PATH, NAME@layers, NAME@frames, and NAME+NAME side by side")


def show(
    kind: Annotated[str, typer.Argument(help="feature, recipe or corpus.")],
    name: Annotated[str, typer.Argument(help="Its name.")],
    cache: Annotated[str, typer.Option("--cache", envvar="VBX_CACHE", help="Cache, for `corpus`.")] = "vbx-cache",
    json: Json = False,
) -> None:
    """Show one feature (licence, source, spec), recipe (its page of TOML) or corpus (label columns)."""
    shows: dict[str, Callable[[str, str, bool], None]] = {
        "feature": _show_feature,
        "recipe": _show_recipe,
        "corpus": _show_corpus,
    }
    kind = kind.removesuffix("s") if kind.removesuffix("s") in shows else kind
    if kind not in shows:
        raise UnknownName("kind", kind, shows)
    shows[kind](name, cache, json)


def doctor(json: Json = False) -> None:
    """Say what works on this machine: versions, extras, which onnxruntime is live, whether CUDA would be used."""
    from vbx.commands.health import examine

    findings = examine()
    print_rows(findings, json)
    if any(row["state"] == "broken" for row in findings):
        raise typer.Exit(1)


def _features() -> list[dict[str, Any]]:
    from vbx.cache.feature import list_features

    return [{k: e[k] for k in ("feature", "dim", "about", "licence")} for e in list_features()]


def _plugins(package: str, kind: str) -> list[dict[str, Any]]:
    from importlib.util import find_spec

    from vbx.plugins import plugin_names

    rows = []
    for name in plugin_names(package):
        spec = find_spec(f"{package}.{name}")
        rows.append({kind: name, "about": _first_line(spec.origin if spec else None)})
    return rows


def _first_line(path: str | None) -> str:
    """First line of the docstring of a file, without importing it."""
    import ast
    from pathlib import Path

    return (ast.get_docstring(ast.parse(Path(path).read_text(encoding="utf-8"))) or "").split("\n")[0] if path else ""


def _functions(module: str, table: str, kind: str) -> list[dict[str, Any]]:
    from importlib import import_module

    entries = getattr(import_module(module), table)
    return [{kind: name, "about": (entry.__doc__ or "").split("\n")[0]} for name, entry in entries.items()]


def _recipes() -> list[dict[str, Any]]:
    from vbx.heads.recipe import list_recipes, read_recipe

    return [
        {"recipe": name, "title": read_recipe(name).title, "source": read_recipe(name).source}
        for name in list_recipes()
    ]


def _corpora(cache: str) -> list[dict[str, Any]]:
    from vbx.cache.store import Store

    store = Store(cache)
    tables = [store.label_table(name) for name in store.corpora()]
    return [{"corpus": t.corpus, "utterances": len(t.ids), "root": t.about["root"]} for t in tables]


def _show_feature(name: str, cache: str, as_json: bool) -> None:
    from vbx.cache.feature import list_features, read_feature

    shown = []
    for part in read_feature(name).parts:
        same = [entry for entry in list_features() if entry["encoder"] == part.encoder]
        exact = [e for e in same if tuple(e["outputs"]) == part.outputs]
        told = ("about", "dim", "licence", "source") if exact else ("licence", "source")
        facts = {k: entry[k] for entry in (exact or same)[:1] for k in told}
        origin = {k: v for k, v in _origin(part.spec).items() if k not in facts}
        shown.append({"feature": name, "outputs": list(part.outputs), **facts, **origin, "spec": part.spec.to_json()})
    if as_json:
        print_json(shown)
        return
    for entry in shown:
        for key, value in entry.items():
            print(f"{key:>8}: {value}")


def _origin(spec: "EncoderSpec") -> dict[str, str]:
    """Where the weights of an encoder are, and its licence and source as far as the catalogue does not tell them."""
    if spec.encoder == "onnx":
        return {"licence": "that of the file", "source": "whoever made the file", "weights": f"the file {spec.model}"}
    if spec.encoder != "wav2vec2":
        return {}
    from vbx.extract.hub import cached_checkpoint, model_page

    page, here = model_page(spec.model, spec.revision), cached_checkpoint(spec.model, spec.revision)
    where = f"{here}, from {page}" if here else f"{page}, fetched when needed; or --checkpoint NAME=FOLDER"
    return {"licence": f"see {page}", "source": page, "weights": where}


def _show_recipe(name: str, cache: str, as_json: bool) -> None:
    from dataclasses import asdict
    from importlib import resources

    from vbx.heads.recipe import list_recipes, read_recipe

    recipe = read_recipe(name)
    if as_json:
        print_json(asdict(recipe))
    elif name in list_recipes():
        print(resources.files("vbx.recipes").joinpath(f"{name}.toml").read_text(encoding="utf-8"), end="")
    else:
        from pathlib import Path

        print(Path(name).read_text(encoding="utf-8"), end="")


def _show_corpus(name: str, cache: str, as_json: bool) -> None:
    from vbx.cache.store import Store

    table = Store(cache).label_table(name)
    rows = []
    for column, schema in table.schema.items():
        values = table.labels[column]
        what = ", ".join(schema.classes[:8]) + ("…" if len(schema.classes) > 8 else "")
        if schema.kind == "number" and schema.low is not None:
            what = f"{schema.low:g} to {schema.high:g} {schema.unit or ''}".strip()
        rows.append({"label": column, "kind": schema.kind, "labelled": int(values.notna().sum()), "values": what})
    print_rows(rows, as_json)
