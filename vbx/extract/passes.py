"""The pass: every file is read once, ahead of the encoders; what they give is written behind them."""

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from vbx import __version__
from vbx.cache.layout import Layout, choose_unit_rows, read_layouts
from vbx.cache.rows import read_rows
from vbx.cache.store import LabelTable, Store
from vbx.devices import pick_device
from vbx.errors import UnknownName
from vbx.extract.contents import Content
from vbx.extract.corpus import Corpus, Utterance
from vbx.extract.crew import Crew
from vbx.extract.encoder import Encoder, Output, encoder_plugin, load_encoder
from vbx.extract.feed import Feed
from vbx.extract.lanes import Lane
from vbx.extract.plan import Job, Settings
from vbx.extract.report import EncoderShare
from vbx.extract.reuse import find_loans
from vbx.extract.units import Presence, list_units
from vbx.extract.work import Answer, Item, Order


@dataclass(frozen=True)
class Pass:
    """What one pass over a corpus is to do.

    Attributes:
        jobs: encoders to run
        before: key of a spec to what is there of its outputs
        corpus: where the audio lies
        table: the corpus as the cache knows it
        contents: path to what was digested
        store: the cache
        settings: processes, part of the work, progress
    """

    jobs: Sequence[Job]
    before: Mapping[str, Mapping[str, Presence]]
    corpus: Corpus
    table: LabelTable
    contents: Mapping[str, Content]
    store: Store
    settings: Settings

    @cached_property
    def lengths(self) -> "pd.Series[float]":
        """Row to length as the header has it, in seconds; of all rows of the cache, in order."""
        return read_rows(self.store.folder(self.table.corpus)).set_index("row")["header_s"]

    @cached_property
    def utterances(self) -> dict[int, Utterance]:
        """Row to utterance, of those that the corpus has now."""
        return dict(zip(self.table.rows.tolist(), self.corpus.utterances, strict=True))


def run_pass(work: Pass, device: str) -> tuple[list[EncoderShare], list[str]]:
    """Do what is lacking, reading each file once.

    Args:
        work: what to do
        device: for encoders that run on one; `auto`, `cpu`, `cuda` or `cuda:i`

    Returns:
        what the time of each encoder went into, and what a user should know
    """
    orders = [Order(job.spec, job.checkpoint, in_worker(job)) for job in work.jobs]
    device = "cpu" if all(order.in_worker for order in orders) else pick_device(device)
    with Crew(orders, work.settings.workers) as crew:
        described = crew.describe()
        lanes: dict[int, Lane] = {}
        for number, job in enumerate(work.jobs):
            encoder = None if number in described else load_encoder(job.spec, job.checkpoint, device)
            outputs, speed = (encoder.outputs, encoder.speed) if encoder else described[number]
            lane = _open_lane(work, job, encoder, outputs, speed)
            if lane:
                lanes[number] = lane
        budgets = {number: lane.encoder.batch_s for number, lane in lanes.items() if lane.encoder}
        cost_s = sum(lane.audio_s / described[number][1] for number, lane in lanes.items() if number in described)
        began = time.perf_counter()
        _drive(work, crew, lanes, cost_s, device)
        seconds, processes = time.perf_counter() - began, crew.size
    notes = [note for lane in lanes.values() for note in lane.notes]
    for number, budget_s in budgets.items():
        if (now_s := lanes[number].encoder.batch_s) < budget_s:  # type: ignore[union-attr]
            notes.append(f"{lanes[number].name}: batches were cut to {now_s:.1f} s, more did not fit into memory")
    if crew.deaths:
        notes.append(f"{crew.deaths} times a process that reads audio died; it was replaced")
    return [_share(lane, seconds, processes) for lane in lanes.values()], notes


def in_worker(job: Job) -> bool:
    """Whether an encoder runs where audio is read: one that wants no accelerator and takes one clip at a time."""
    return bool(getattr(encoder_plugin(job.spec.encoder), "IN_WORKERS", False))


def _open_lane(work: Pass, job: Job, encoder: Encoder | None, outputs: Sequence[Output], speed: float) -> Lane | None:
    """The lane of an encoder, its arrays made; None if nothing in this part of the work is lacking."""
    layouts = _open_arrays(work, job, outputs, speed)
    number, parts = work.settings.part
    units = {
        unit.number: unit
        for unit in list_units(work.before[job.spec.key], layouts, list(work.lengths.index))
        if unit.number % parts == number - 1 and any(row in work.utterances for row in unit.rows)
    }
    if not units:
        return None
    wanted = {layout.output for unit in units.values() for layout in unit.layouts}
    rows = [row for unit in units.values() for row in unit.rows]
    folder = work.store.folder(work.table.corpus) / job.spec.folder
    loans = find_loans(work.store, work.table.corpus, job, wanted, rows)
    audio_s = float(work.lengths[[row for row in rows if row in work.utterances and row not in loans]].sum())
    return Lane(job, folder, work.store, units, loans, work.settings.progress, audio_s, encoder)


def _open_arrays(work: Pass, job: Job, outputs: Sequence[Output], speed: float) -> tuple[Layout, ...]:
    """Open the arrays of the outputs to keep: all that come for nothing, and the optional ones asked for."""
    corpus, store = work.table.corpus, work.store
    seconds = float(work.lengths.mean())
    known = read_layouts(store.folder(corpus) / job.spec.folder)
    # All outputs of an encoder share one size of unit, so that one pass fills them all.
    frame_rates = [100 * seconds if output.frames else 1 for output in outputs]
    widths = [len(o.columns) * np.dtype(o.dtype).itemsize for o in outputs]
    row_bytes = max(rate * width for rate, width in zip(frame_rates, widths, strict=True))
    unit_rows = next((x.unit_rows for x in known.values()), choose_unit_rows(seconds, row_bytes, speed))
    layouts = [
        known.get(o.name) or Layout(o.name, o.columns, o.dtype, o.frames, unit_rows, store.format)
        for o in outputs
        if not o.optional or o.name in job.optional
    ]
    for name in job.optional:
        if name not in {o.name for o in outputs}:
            raise UnknownName(f"output of encoder {job.spec.model!r}:", name, [o.name for o in outputs])
    made_with = {"vbx": __version__, "checkpoint": str(job.checkpoint) if job.checkpoint else None}
    folder = store.open_spec(corpus, job.spec, made_with, layouts)
    there = read_layouts(folder)
    return tuple(there[layout.output] for layout in layouts)


def _drive(work: Pass, crew: Crew, lanes: Mapping[int, Lane], cost_s: float, device: str) -> None:
    """Read everything, in the order of rows, and hand it to the lanes."""
    # On a CPU two encoders at once would only get into each other's way.
    alone = threading.Lock() if device == "cpu" else None
    with ExitStack() as stack:
        feeds = {number: Feed(lane, alone) for number, lane in lanes.items() if lane.encoder}
        for feed in feeds.values():
            stack.callback(feed.close, abandon=True)
        for lane in lanes.values():
            work.settings.progress.start(lane.name, lane.audio_s / 3600, "audio h")
            lane.take_known(work.utterances)
        for answers in crew.run(_items(work, lanes), cost_s):
            for answer in answers:
                _deliver(answer, lanes, feeds)
        for feed in feeds.values():
            feed.close()
        for lane in lanes.values():
            lane.finish()


def _deliver(answer: Answer, lanes: Mapping[int, Lane], feeds: Mapping[int, Feed]) -> None:
    for number, wave in answer.waves.items():
        feeds[number].put(answer.row, wave, answer.silent, answer.seconds)
    for number, outcome in answer.outcomes.items():
        lanes[number].times.encoding += answer.encoding_s.get(number, 0.0)
        lanes[number].take(answer.row, outcome, answer.silent, answer.seconds)
    for lane in lanes.values():
        lane.times.reading += answer.reading_s


def _items(work: Pass, lanes: Mapping[int, Lane]) -> list[Item]:
    """What is to be read, in the order of rows: neighbours are of like length."""
    items = []
    for row, seconds in zip(work.lengths.index.tolist(), work.lengths.tolist(), strict=True):
        wanted = {number: stored for number, lane in lanes.items() if (stored := lane.stored(row))}
        if wanted and (utterance := work.utterances.get(row)):
            items.append(Item(row, utterance, work.contents[str(utterance.path)].stamp, wanted, seconds))
    return items


def _share(lane: Lane, seconds: float, processes: int) -> EncoderShare:
    """Where the time of a lane went, as shares of the wall time."""
    workers = processes if lane.encoder is None else 1
    encoding = lane.times.encoding / workers / seconds
    return EncoderShare(
        encoder=lane.folder.name,
        seconds=round(seconds, 3),
        audio_h=round(lane.times.audio / 3600, 4),
        x_real_time=round(lane.times.audio / seconds, 1),
        reading=round(lane.times.reading / processes / seconds, 3),
        encoding=round(encoding, 3),
        writing=round(lane.times.writing / seconds, 3),
        waiting=round(max(1 - encoding, 0.0), 3),
    )
