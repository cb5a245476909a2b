"""Why a vector would be extracted again: which field of the spec differs from what is there."""

from typing import Any

from vbx.cache.feature import read_feature
from vbx.cache.layout import read_layouts
from vbx.cache.loading import pooled_outputs
from vbx.cache.spec import EncoderSpec
from vbx.cache.store import Store, done_rows


def explain(
    store: Store, corpus: str, feature: str, specs: dict[str, EncoderSpec] | None = None
) -> list[dict[str, Any]]:
    """Compare what a feature asks for with what the cache has.

    Args:
        store: the cache
        corpus: a corpus in it
        feature: name of a feature
        specs: name of an encoder to its spec with the weights that would be used, where they are known; a field that
            is not known is not compared

    Returns:
        one row per part of the feature and encoder spec of the same model in the cache: part, folder, there (vectors),
        missing (utterances), differs (field to [asked, there]), verdict; one row without folder if there is none
    """
    table = store.label_table(corpus)
    mine = set(table.rows[table.rows >= 0].tolist())
    rows: list[dict[str, Any]] = []
    for part in read_feature(feature).parts:
        asked = (specs or {}).get(part.encoder, part.spec)
        found = []
        for folder, spec in store.specs(corpus).items():
            if spec.model != asked.model:
                continue
            differs = {k: list(v) for k, v in asked.difference(spec).items() if not (k == "weights" and v[0] is None)}
            outputs = part.outputs or tuple(pooled_outputs(read_layouts(folder)))
            done = set.intersection(*(done_rows(folder, output) for output in outputs)) if outputs else set()
            missing = len(mine - done)
            found.append(
                {
                    "part": part.encoder,
                    "folder": folder.name,
                    "there": len(mine & done),
                    "missing": missing,
                    "differs": differs,
                    "verdict": _verdict(differs, missing),
                }
            )
        none: dict[str, Any] = {"part": part.encoder, "folder": None, "there": 0, "missing": len(mine), "differs": {}}
        rows += found or [{**none, "verdict": "nothing of this model is in the cache: all would be extracted"}]
    return rows


def _verdict(differs: dict[str, list[Any]], missing: int) -> str:
    if differs:
        fields = ", ".join(f"{name} (asked {asked!r}, there {there!r})" for name, (asked, there) in differs.items())
        return f"would be extracted again: another {fields}"
    if missing:
        return f"{missing} utterances would be extracted: their audio is new or was changed"
    return "nothing would be extracted"
