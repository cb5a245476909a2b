"""Card: what a reader should know of an exported head, in the form that the Hugging Face hub shows (README.md)."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

import vbx
from vbx.cache.feature import Part, list_encoders, list_features
from vbx.cache.files import write_file
from vbx.cache.spec import canonical
from vbx.heads.calibration import COVERAGE
from vbx.heads.head import Head
from vbx.heads.parts import Task
from vbx.heads.roles import told_tasks
from vbx.heads.statistics.settings import Setting, group_settings

_VECTOR = "np.zeros((1, {dim}), np.float32)  # a vector of {feature}, as `vbx cache export` gives it"
_RUN = "outputs = {{name: model({given}, outputs=name) for name in model.outputs}}"
LOADING = {
    "torch": f"""import numpy as np
from vbx.heads.export import load_exported
from vbx.heads.head import apply_head

head = load_exported(".")
feature = {_VECTOR}
outputs = apply_head(head, feature)""",
    "onnx": f"""import audonnx
import numpy as np

model = audonnx.load(".")
feature = {_VECTOR}
{_RUN.replace("{given}", "feature")}""",
    "onnx-with-encoder": f"""import audonnx
import numpy as np

model = audonnx.load(".")
signal = np.zeros({{rate}}, np.float32)  # one second, mono
{_RUN.replace("{given}", "signal, {rate}")}""",
}
"""Code that runs in the folder of each kind of export."""
LICENCES = {"CC BY-NC-SA 4.0": "cc-by-nc-sa-4.0", "Apache-2.0": "apache-2.0"}
"""Licences of the catalogue, as the hub names them."""
USE = (
    "It is for research on recordings like those of {corpus}; how it does with other languages, microphones and "
    "ways of speaking was not measured. It repeats the labels of that corpus and does not know what a speaker feels, "
    "thinks or is: no decision about a person should rest on it."
)
WEIGHTS = "Vectors of other weights than those below mean nothing to it."


@dataclass(frozen=True)
class CorpusFacts:
    """What the cache knows of the corpus that a head learnt from.

    Attributes:
        utterances: split to the number of its utterances
        speakers: split to the number of its speakers; none where they are not known
    """

    utterances: Mapping[str, int] = field(default_factory=dict)
    speakers: Mapping[str, int] = field(default_factory=dict)


def write_card(head: Head, kind: str, folder: str | Path, results: pd.DataFrame, corpus: CorpusFacts) -> None:
    """Write the model card of an export, `README.md`.

    Args:
        head: what was exported
        kind: `torch`, `onnx` or `onnx-with-encoder`
        folder: where it is
        results: of `read_results`, for metrics and other seeds
        corpus: what is known of the corpus

    Raises:
        CacheError: if it cannot be written
    """
    write_file(Path(folder) / "README.md", make_card(head, kind, results, corpus).encode())


def make_card(head: Head, kind: str, results: pd.DataFrame, corpus: CorpusFacts) -> str:
    """The model card of an export: Markdown that begins with YAML; arguments as for `write_card`."""
    tasks, whole = told_tasks(head.run.tasks), kind == "onnx-with-encoder"
    same = results[(results["vectors_key"] == head.vectors_key) & (results["settings"] == _settings(head))]
    own, seeds = group_settings(same[same["seed"] == head.run.seed]), group_settings(same)
    rate = head.parts[0].spec.sample_rate if head.parts else 16000
    code = LOADING[kind].format(dim=len(head.centre), feature=head.feature, rate=rate)
    sections = {
        "Use and limits": USE.format(corpus=repr(head.corpus)),
        "How to load": f"```python\n{code}\n```\n\n{_tell_input(head) if whole else WEIGHTS}",
        "Corpus": _tell_corpus(head, corpus),
        "Feature": _tell_feature(head),
        "Licence": _tell_licence(head, whole),
        "Metrics": _tell_metrics(head, own, seeds),
        "Calibration": _tell_calibration(head),
        "Settings": f"```json\n{json.dumps(head.run.to_json(), ensure_ascii=False)}\n```",
    }
    text = [
        f"---\n{yaml.safe_dump(_front(head, own, whole), sort_keys=False, allow_unicode=True)}---",
        f"# {', '.join(task.name for task in tasks)} from {head.feature}",
        f"{'Encoder and head' if whole else 'A head'}, trained with vbx {vbx.__version__} on corpus {head.corpus!r}.",
        "\n".join(f"- {_tell_output(task, head)}" for task in tasks),
        *(f"## {title}\n\n{body}" for title, body in sections.items()),
    ]
    return "\n\n".join(text) + "\n"


def find_licence(part: Part) -> str | None:
    """Licence of an encoder, as far as the catalogue knows its model; else the page of the hub that tells."""
    encoders = list_encoders()
    licences = {encoders[e["encoder"]].model: e["licence"] for e in list_features() if e["encoder"] in encoders}
    page = f"see https://huggingface.co/{part.spec.model}" if part.typed.startswith("hf:") else None
    return licences.get(part.spec.model, page)


def _settings(head: Head) -> str:
    """What tells the runs of one setting, as results have it."""
    kept = {k: v for k, v in head.run.to_json().items() if k not in ("seed", "feature", "corpus", "recipe")}
    return canonical(kept).decode()


def _front(head: Head, own: Sequence[Setting], whole: bool) -> dict[str, Any]:
    """What the hub reads."""
    known = {LICENCES.get((find_licence(part) or "").partition(":")[0], "other") for part in head.parts}
    return {
        "library_name": "vbx",
        "pipeline_tag": "audio-classification",
        "tags": ["vbx", "speech", "paralinguistics", *sorted({task.kind for task in told_tasks(head.run.tasks)})],
        "license": known.pop() if whole and len(known) == 1 else "other",
        "model-index": [{"name": f"{head.feature} on {head.corpus}", "results": _index(head, own)}],
    }


def _index(head: Head, own: Sequence[Setting]) -> list[dict[str, Any]]:
    """Metrics of this head, as the hub reads them."""
    found = []
    for setting in own:
        for split in ("dev", "test"):
            values = {w.partition(".")[2]: setting.mean(w) for w in setting.values if w.startswith(f"{split}.")}
            metrics = [
                {"type": name.rpartition(".")[2], "name": name, "value": round(value, 4)}
                for name, value in values.items()
                if math.isfinite(value)
            ]
            dataset = {"name": head.corpus, "type": head.corpus, "split": split}
            if metrics:
                found.append({"task": {"type": "audio-classification"}, "dataset": dataset, "metrics": metrics})
    return found


def _tell_output(task: Task, head: Head) -> str:
    if task.kind == "classification":
        return f"`{task.name}`: probabilities of {', '.join(head.classes[task.name])}"
    return f"`{task.name}`: {', '.join(task.columns)}" + (", from 0 to 1" if task.output == "sigmoid" else "")


def _tell_input(head: Head) -> str:
    spec = head.parts[0].spec
    mixed = "the mean of all channels" if spec.channel == "mix" else f"channel {spec.channel}"
    text = (
        f"`signal` is one clip, float32, {spec.sample_rate} Hz, full scale 1; vbx takes {mixed} and resamples with "
        f"{spec.resampler}. All else that vbx does to a waveform is in the graph."
    )
    others = sorted({part.spec.precision for part in head.parts} - {"float32"})
    if others:
        text += f" The head learnt from vectors in {', '.join(others)}; the graph computes in float32."
    return text


def _tell_corpus(head: Head, corpus: CorpusFacts) -> str:
    names = "; ".join(f"`{task.name}` from {', '.join(task.columns)}" for task in told_tasks(head.run.tasks))
    text = f"{head.corpus}; label columns: {names}."
    if head.run.protocol.kind != "splits":
        text += f" It learnt from one fold of {head.run.protocol.kind}, not from the splits of the corpus."
    if not corpus.utterances:
        return text
    rows = [
        (split, str(count), str(corpus.speakers.get(split, "not known"))) for split, count in corpus.utterances.items()
    ]
    return f"{text}\n\n" + _table(("split", "utterances", "speakers"), rows)


def _tell_feature(head: Head) -> str:
    text = f"`{head.feature}`, {len(head.centre)} columns; key of vectors and labels `{head.vectors_key}`."
    if not head.parts:
        return f"{text} Which encoder made them is not known: they came from an array."
    rows = [
        (part.typed, part.spec.model, ", ".join(part.outputs), f"`{part.spec.weights}`", f"`{part.spec.key}`")
        for part in head.parts
    ]
    return f"{text}\n\n" + _table(("part", "model", "outputs", "digest of the weights", "key of the encoder"), rows)


def _tell_licence(head: Head, whole: bool) -> str:
    lines = [
        f"- {part.typed}: {find_licence(part) or 'not known to vbx; see where it came from'}" for part in head.parts
    ]
    bound = (
        "This file holds the encoder's weights, so the encoder's licence holds for it."
        if whole
        else "The head holds no weight of the encoder, but is of no use without it: who uses both is bound by the "
        "encoder's licence."
    )
    return "\n".join([*lines, "", bound, "The licence of the corpus may say more; vbx does not know it."]).strip()


def _tell_metrics(head: Head, own: Sequence[Setting], seeds: Sequence[Setting]) -> str:
    if not own or not any(own[0].values):
        return "The folder of results has none of this run."
    count, rows = len(seeds[0].keys), []
    for what in own[0].values:
        low, high = own[0].interval(what)
        interval = f"{low:.3f} to {high:.3f}" if math.isfinite(low) else ""
        spread = f"{seeds[0].mean(what):.3f} ± {seeds[0].deviation(what):.3f}" if count > 1 else ""
        split, _, metric = what.partition(".")
        rows.append((split, metric, f"{own[0].mean(what):.3f}", interval, spread))
    text = (
        "The interval is of the bootstrap over speakers (utterances where there are fewer than six): what other "
        f"speakers would change. The last column is mean and deviation of {count} runs that differ in the seed."
    )
    if head.run.protocol.kind != "splits":
        text += f" Values are those of the pooled folds of {head.run.protocol.kind}; this head is that of one fold."
    return _table(("split", "metric", "this run", "95 % interval", f"{count} seeds"), rows) + f"\n\n{text}"


def _tell_calibration(head: Head) -> str:
    if not head.calibration:
        return "None: there was no dev split to fit it on. Probabilities are those of the softmax."
    lines = []
    for task in told_tasks(head.run.tasks):
        count = head.calibration.counts.get(task.name, 0)
        if task.kind == "classification":
            weighted = ", though training weighted the classes" if task.class_weights == "inverse" else ""
            temperature = head.calibration.temperatures[task.name]
            lines.append(
                f"- `{task.name}`: logits are divided by {temperature:.3f} (Guo et al. 2017) inside the export, "
                f"fitted on {count} utterances of dev with its classes as frequent as they are there{weighted}"
            )
        for column, width in zip(task.columns, head.calibration.widths.get(task.name, ()), strict=False):
            told = f"± {width:.4g} holds {COVERAGE:.0%}" if math.isfinite(width) else "too few for an interval"
            lines.append(f"- `{column}`: {told} (split conformal, Lei et al. 2018; {count} utterances of dev)")
    limits = (
        "All that is for utterances like those of dev. It also chose the epoch, so new ones err a little more; where "
        "it had few speakers, intervals of other speakers hold clearly less."
    )
    return "\n".join([*lines, "", limits])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
