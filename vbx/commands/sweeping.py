"""What `vbx heads train` does with what it was asked for: say what it would cost, train a grid, search."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from vbx.commands.output import note, print_json, print_rows


def tell_plan(sweeps: Sequence[Any], device: str, json: bool) -> None:
    """Print what a sweep would train and how long that takes, measured here on a few steps."""
    from vbx.heads.timing import estimate_sweep

    rows = [plan_row(sweep, device) for sweep in sweeps]
    todo = [(sweep.todo, sweep.vectors) for sweep in sweeps if sweep.todo]
    estimate = estimate_sweep(todo, device) if todo else None
    runs, left = sum(len(sweep.runs) for sweep in sweeps), sum(len(sweep.todo) for sweep in sweeps)
    if json:
        told = {name: value for name, value in vars(estimate).items() if name != "shapes"} if estimate else {}
        shapes = len({(place, run.shape) for place, sweep in enumerate(sweeps) for run in sweep.runs})
        print_json({"runs": runs, "to_train": left, "shapes": shapes, "seconds": 0.0, **told, "features": rows})
        return
    print_rows(rows, json)
    note(f"{runs} runs, {left} to train{_time_text(estimate)}")


def train_grid(sweeps: Sequence[Any], out: Path, device: str, json: bool) -> tuple[dict[str, int], set[str]]:
    """Train a sweep; its counts and the keys of all its runs."""
    from vbx.heads.board import pending
    from vbx.heads.sweep import run_sweep
    from vbx.progress import Quiet, Shown

    def left() -> int:
        return sum(len(pending(sweep.todo, sweep.vectors, out)) for sweep in sweeps)

    with _stoppable(out, left):
        counts = run_sweep(sweeps, out, device=device, progress=Quiet() if json else Shown())
    if counts["elsewhere"]:
        note(f"{counts['elsewhere']} runs were trained by other processes meanwhile")
    if counts["under_way"]:
        note(
            f"{counts['under_way']} runs are not there yet, other processes ({counts['processes']}) train them; "
            "`vbx heads rank` shows them when they are done"
        )
    return counts, {run.key_on(sweep.vectors) for sweep in sweeps for run in sweep.runs}


def search_settings(search: Any, out: Path, json: bool, dry_run: bool) -> tuple[dict[str, Any], set[str]] | None:
    """Search; its counts with the best settings, and the keys of all its runs. None after a dry run."""
    from vbx.heads.sampling.search import run_search
    from vbx.progress import Quiet, Shown

    if dry_run:
        _tell_search(search, json)
        return None
    with _stoppable(out, None):
        found = run_search(search, out, Quiet() if json else Shown())
    counts, best = dict(found.counts), ", ".join(f"{path} = {value}" for path, value in found.best.items())
    note(f"{counts['complete']} of {counts['trials']} trials have a score; best on dev, {found.value:.3f}: {best}")
    if counts["trials_under_way"]:
        note(f"{counts['trials_under_way']} trials are under way in other processes")
    return {**counts, "best": {"settings": found.best, "dev": found.value}}, set(found.keys)


def plan_row(sweep: Any, device: str) -> dict[str, Any]:
    """What a sweep is on one feature, for a table."""
    from vbx.heads.engine import name_engines

    labels = sweep.vectors.labels["split"].value_counts()
    protocols = list(dict.fromkeys(run.protocol.kind for run in sweep.runs))
    own = protocols == ["splits"]  # else the corpus's splits are not what counts
    sizes = {name: int(labels.get(name, 0)) if own else None for name in ("train", "dev", "test")}
    return {
        "corpus": sweep.corpus,
        "feature": sweep.feature,
        "dim": sweep.vectors.x.shape[1],
        "tasks": ", ".join(dict.fromkeys(task.name for run in sweep.runs for task in run.tasks)),
        "runs": len(sweep.runs),
        "to_train": len(sweep.todo),
        "shapes": len({run.shape for run in sweep.runs}),
        "epochs": sum(run.fit.epochs for run in sweep.todo),
        "engine": name_engines(sweep.todo, device),
        "protocol": ", ".join(protocols),
        **sizes,
        "without_vector": sweep.vectors.missing,
    }


def _tell_search(search: Any, json: bool) -> None:
    """Print how many runs a search is, and how long they take: those of settings drawn at random."""
    from vbx.heads.sampling.trials import draw_runs, list_axes
    from vbx.heads.timing import estimate_sweep

    drawn = draw_runs(search)
    estimate = estimate_sweep([(runs, search.load(*place)) for place, runs in drawn.items()], search.device)
    axes = {path: len(values) if len(values) > 1 else str(values[0]) for path, values in list_axes(search).items()}
    runs = sum(len(found) for found in drawn.values())
    if json:
        print_json({"trials": search.trials, "runs": runs, "axes": axes, **vars(estimate)})
        return
    note(f"{search.trials} trials over {', '.join(axes)}: at most {runs} runs{_time_text(estimate)}")


def _time_text(estimate: Any) -> str:
    """How long it will take, for people."""
    if estimate is None:
        return ""
    where = f"{estimate.cores} cores" if estimate.device == "cpu" else estimate.device
    long = estimate.seconds
    text = f"{long:.0f} s" if long < 120 else f"{long / 60:.0f} min" if long < 7200 else f"{long / 3600:.1f} h"
    return (
        f": about {text} on {where}, less where runs stop early "
        f"(measured on a few steps of {estimate.measured} of {estimate.shapes} shapes)"
    )


@contextmanager
def _stoppable(out: Path, left: Callable[[], int] | None) -> Iterator[None]:
    """What Ctrl-C leaves is said, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        some = f", {left()} runs are left" if left else ""
        note(f"stopped: what was done is saved in {out}{some}; the same command goes on from there")
        raise typer.Exit(130) from None
