"""Checking and tidying: a byte flipped anywhere is named, refused by loading, and mended by extracting again."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from vbx.cache.check import check_cache
from vbx.cache.store import Store
from vbx.cache.tidy import collect_leftovers, drop_damaged, drop_units
from vbx.errors import CacheError, VbxError
from vbx.extract.corpus import read_corpus
from vbx.extract.pipeline import extract_vectors

FEATURES = ["noise", "noise@frames"]


@pytest.fixture(params=["zarr", "hdf5"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Store, Path]:
    """A small cache, with a failure in it, and the corpus it was made from."""
    corpus = tmp_path / "toy"
    corpus.mkdir()
    rng = np.random.default_rng(0)
    for i in range(5):
        soundfile.write(corpus / f"{i}.wav", rng.uniform(-0.5, 0.5, 800 + 100 * i), 16000)
    (corpus / "bad.wav").write_text("not audio")
    store = Store(tmp_path / "cache", request.param)
    extract_vectors(read_corpus(corpus), FEATURES, store, device="cpu")
    return store, corpus


def cache_files(store: Store) -> list[Path]:
    return sorted(p for p in store.root.rglob("*") if p.is_file() and p.name != ".lock")


def test_a_whole_cache_has_nothing_to_tell(cache: tuple[Store, Path]) -> None:
    assert check_cache(cache[0]) == []


def test_a_byte_flipped_anywhere_is_named_and_refused(cache: tuple[Store, Path]) -> None:
    store, _ = cache
    name = store.corpora()[0]
    rng = np.random.default_rng(1)
    for path in cache_files(store):
        whole = path.read_bytes()
        for position in {0, len(whole) - 1, *rng.integers(0, len(whole), 4).tolist()}:
            path.write_bytes(
                whole[:position] + bytes([whole[position] ^ (1 << int(rng.integers(8)))]) + whole[position + 1 :]
            )
            findings = check_cache(store)
            relative = path.relative_to(store.root).as_posix().removesuffix(".sha256")
            assert any(f.path.removesuffix(".sha256") == relative for f in findings), (path, position)
            with pytest.raises(VbxError):
                store.load_vectors(name, "noise")
                store.load_frames(name, "noise@frames")
        path.write_bytes(whole)
    assert check_cache(store) == []


@pytest.mark.parametrize("how", ["truncated", "removed", "emptied"])
def test_a_file_that_is_not_whole_is_named_with_its_rows(cache: tuple[Store, Path], how: str) -> None:
    store, _ = cache
    for path in [p for p in cache_files(store) if "/commits/" not in str(p)]:
        whole = path.read_bytes()
        if how == "removed":
            path.unlink()
        else:
            path.write_bytes(whole[: len(whole) // 2] if how == "truncated" else b"")
        findings = check_cache(store)
        assert findings, path
        if path.name in {"0", "000000.h5"} or path.parent.name == "c":
            assert any("rows 0 to 5" in f.detail for f in findings), path
        path.write_bytes(whole)


def test_a_foreign_file_is_named(cache: tuple[Store, Path]) -> None:
    store, _ = cache
    for place in [store.root, *(p for p in store.root.rglob("*") if p.is_dir())]:
        stranger = place / "notes.txt"
        stranger.write_text("mine")
        assert any(f.path.endswith("notes.txt") for f in check_cache(store)), place
        stranger.unlink()


def test_units_that_changed_places_are_noticed(cache: tuple[Store, Path]) -> None:
    """A shard that is whole in itself but not the one that was committed must not be served."""
    store, _ = cache
    if store.format != "zarr":
        pytest.skip("one format suffices")
    folder = next(iter(store.specs("toy")))
    record = folder / "commits" / "hidden-000000.json"
    (folder / "commits" / "hidden-000001.json").write_bytes(record.read_bytes())
    assert any("another unit" in f.detail for f in check_cache(store))


@pytest.mark.parametrize("output", ["hidden", "frames"])
def test_shards_that_changed_places_are_noticed(tmp_path: Path, output: str) -> None:
    """Each is whole in itself: the CRC of data that its own CRC follows does not even depend on the data."""
    folder, store = tmp_path / "toy", Store(tmp_path / "cache")
    folder.mkdir()
    for i in range(128):
        soundfile.write(folder / f"{i:03d}.wav", np.random.default_rng(i).uniform(-0.5, 0.5, 1600), 16000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vbx.extract.passes.choose_unit_rows", lambda *_: 64)
        extract_vectors(read_corpus(folder), ["noise", "noise@frames"], store, device="cpu")
    spec = next(iter(store.specs("toy")))
    paths = [spec / output / "c" / unit / "0" for unit in "01"]
    if output == "frames":
        paths = [spec / output / f"00000{unit}" / "values" / "c" / "0" / "0" for unit in "01"]
    first, second = (path.read_bytes() for path in paths)
    assert len(first) == len(second) and first != second
    paths[0].write_bytes(second)
    paths[1].write_bytes(first)
    assert [f.problem for f in check_cache(store)] == ["damaged", "damaged"]
    with pytest.raises(CacheError, match="damaged"):
        _ = store.load_vectors("toy", "noise") if output == "hidden" else store.load_frames("toy", "noise@frames")


def test_leftovers_are_collected_and_nothing_else(cache: tuple[Store, Path]) -> None:
    store, _ = cache
    folder = next(iter(store.specs("toy")))
    before = store.load_vectors("toy", "noise").x
    (folder / "hidden" / ".000001.h5.77-ab.partial").write_bytes(b"half")
    (folder / "hidden" / "c").mkdir(exist_ok=True)
    uncommitted = folder / "hidden" / "c" / "9"
    uncommitted.write_bytes(b"whole but never committed")
    (folder / "stranger").write_text("not ours")
    assert len(collect_leftovers(store)) == 2
    assert not uncommitted.exists() and (folder / "stranger").exists()
    assert np.array_equal(store.load_vectors("toy", "noise").x, before)


def test_what_is_damaged_is_cut_out_and_extracted_again(cache: tuple[Store, Path]) -> None:
    store, corpus = cache
    before = store.load_vectors("toy", "noise")
    for path in cache_files(store):
        path.write_bytes(path.read_bytes()[:-3] + b"xyz")
        drop_damaged(store)
        extract_vectors(read_corpus(corpus), FEATURES, store, device="cpu")
        assert check_cache(store) == [], path
        after = store.load_vectors("toy", "noise")
        assert after.ids == before.ids and np.array_equal(after.x, before.x), path


def test_failed_units_can_be_tried_again(cache: tuple[Store, Path]) -> None:
    store, corpus = cache
    folder = next(iter(store.specs("toy")))
    assert drop_units(folder, failed_only=True) == 2
    report = extract_vectors(read_corpus(corpus), FEATURES, store, device="cpu")
    assert [(f.extracted, f.cached, f.failed) for f in report.features] == [(5, 0, 1), (5, 0, 1)]
