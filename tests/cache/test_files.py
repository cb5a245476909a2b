"""Files: whole or not at all, and every flipped bit shows."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbx.cache.files import create_file, locked, read_sealed, seal, unseal, write_file
from vbx.errors import CacheError


def test_a_file_is_put_only_where_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    assert create_file(path, b"first")
    assert not create_file(path, b"second")
    assert path.read_bytes() == b"first"
    assert [p.name for p in path.parent.iterdir()] == ["b.json"]


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CacheError, match="cannot write"):
        write_file(tmp_path / "file" / "below", b"x")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text().filter(lambda k: k != "seal"), json_values, max_size=4))
def test_a_seal_gives_back_what_was_sealed(body: dict[str, object]) -> None:
    assert unseal(seal(body), Path("x.json")) == body


@settings(max_examples=60)
@given(st.data())
def test_every_flipped_bit_of_sealed_json_shows(data: st.DataObject) -> None:
    sealed = bytearray(seal({"rows": [1, 2, 3], "text": "größer", "number": 0.1}))
    position = data.draw(st.integers(0, len(sealed) - 1))
    sealed[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CacheError, match=r"x\.json"):
        unseal(bytes(sealed), Path("x.json"))


def test_a_lock_goes_with_the_process_that_held_it(tmp_path: Path) -> None:
    code = (
        "import os\nfrom pathlib import Path\nfrom vbx.cache.files import locked\n"
        f"with locked(Path({str(tmp_path)!r})): os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    with locked(tmp_path):
        pass


def test_a_missing_record_names_itself(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="corpus.json is missing"):
        read_sealed(tmp_path / "corpus.json")
