"""Reading ahead: in order, not too much at a time, and nothing is fetched twice."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from vbx.cache.ahead import MOST_BYTES, MOST_OBJECTS, Ahead


def test_objects_are_under_way_before_they_are_taken() -> None:
    asked, go = list[str](), threading.Event()

    def fetch(key: str) -> str:
        asked.append(key)
        go.wait(10)
        return key.upper()

    keys = [f"k{i:02d}" for i in range(40)]
    with ThreadPoolExecutor(MOST_OBJECTS) as threads:
        ahead = Ahead(fetch, threads, [(key, 1) for key in keys])
        first = ahead.take("k00")
        go.set()
        assert first is not None and first.result() == "K00"
        for key in keys[1:]:
            future = ahead.take(key)
            assert future is not None and future.result() == key.upper()
        assert ahead.take("k00") is None, "whoever wants it again fetches it"
    assert sorted(asked) == keys


def test_only_so_many_bytes_are_under_way() -> None:
    asked = list[str]()
    with ThreadPoolExecutor(4) as threads:
        ahead = Ahead(asked.append, threads, [(str(i), MOST_BYTES) for i in range(3)])
        for i in range(3):
            future = ahead.take(str(i))
            assert future is not None
            future.result()
            assert len(asked) <= i + 2
    assert asked == ["0", "1", "2"]


def test_what_cannot_be_fetched_is_said_when_it_is_taken() -> None:
    def fetch(key: str) -> None:
        raise FileNotFoundError(key)

    with ThreadPoolExecutor(1) as threads:
        future = Ahead(fetch, threads, [("gone", 1)]).take("gone")
        assert future is not None
        with pytest.raises(FileNotFoundError):
            future.result()
