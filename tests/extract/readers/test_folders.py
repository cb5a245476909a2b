"""The folders reader: labels from folders and patterns, and what it passes over."""

import pytest

from vbx.errors import CorpusError
from vbx.extract.corpus import read_corpus
from vbx.extract.readers import folders


@pytest.fixture
def make(tmp_path):
    """Make empty files below a folder called `root`."""

    def make_files(*names):
        for name in names:
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / "root"

    return make_files


def test_label_from_the_folder(make):
    root = make("joy/b.wav", "anger/a.FLAC", "joy/a.mp3")
    corpus = read_corpus(root)
    assert corpus.reader == "folders"
    assert corpus.labels["label"].to_dict() == {"anger/a.FLAC": "anger", "joy/a.mp3": "joy", "joy/b.wav": "joy"}
    assert corpus.schema["label"].classes == ("anger", "joy") and corpus.notes == ()


@pytest.mark.parametrize(
    "names",
    [
        ("train/joy/a.wav", "Val/anger/b.wav", "evaluation/joy/c.wav"),
        ("joy/train/a.wav", "anger/Val/b.wav", "joy/evaluation/c.wav"),
        ("audio/train/joy/wav/a.wav", "audio/Val/anger/wav/b.wav", "audio/evaluation/joy/wav/c.wav"),
    ],
)
def test_split_level(make, names):
    corpus = read_corpus(make(*names))
    by_name = {name[-5]: row for name, row in corpus.labels.to_dict("index").items()}
    assert by_name == {
        "a": {"split": "train", "label": "joy"},
        "b": {"split": "dev", "label": "anger"},
        "c": {"split": "test", "label": "joy"},
    }


def test_split_without_labels(make):
    corpus = read_corpus(make("train/a.wav", "test/b.wav"))
    assert corpus.labels.to_dict("list") == {"split": ["test", "train"]}


def test_outer_folders_are_told(make):
    corpus = read_corpus(make("liu/joy/1.wav", "liu/sad/1.wav", "wang/joy/1.wav"))
    assert corpus.labels["label"].tolist() == ["joy", "sad", "joy"]
    assert "'liu'" in corpus.notes[0]


def test_flat_folder_and_one_folder_have_no_labels(make):
    assert read_corpus(make("a.wav", "b.wav")).labels.shape == (2, 0)
    root = make("audio/a.wav").parent / "other"
    (root / "audio").mkdir(parents=True)
    (root / "audio/a.wav").touch()
    assert read_corpus(root).labels.shape == (1, 0)


def test_uneven_depth_gives_no_label_and_says_so(make):
    corpus = read_corpus(make("joy/a.wav", "sad/a.wav", "intro.wav"))
    assert corpus.labels.shape == (3, 0) and "depths" in corpus.notes[0]


def test_order_is_that_of_the_names(make):
    names = [f"{c}/{i:02d}.wav" for c in "zay" for i in (3, 1, 2)]
    assert [u.id for u in read_corpus(make(*names)).utterances] == sorted(names)


def test_what_is_left_out_is_counted(make):
    root = make("a.wav", ".hidden.wav", ".git/x.wav", "notes.txt", "b/LICENSE", "b/._b.wav", "b/b.wav")
    corpus = read_corpus(root)
    assert [u.id for u in corpus.utterances] == ["a.wav", "b/b.wav"]
    assert corpus.notes[-1] == "left out: 2 files that are no audio, 3 hidden files or folders"


def test_pattern_makes_columns(make):
    root = make("03/anger_1.wav", "03/joy_2.wav", "08/joy_1.wav")
    corpus = read_corpus(root, r"folders:(?P<speaker>\d+)/(?P<emotion>\w+)_(?P<take>\d)\.wav")
    assert corpus.labels["speaker"].tolist() == ["03", "03", "08"]
    assert corpus.schema["emotion"].classes == ("anger", "joy")
    assert corpus.labels["take"].tolist() == [1.0, 2.0, 1.0]


def test_pattern_must_match_from_end_to_end(make):
    root = make("03/joy_1.wav", "03/joy_1.wav.bak.wav", "noise/room.wav")
    pattern = r"folders:(?P<speaker>\d+)/(?P<emotion>\w+)_\d\.wav"
    with pytest.raises(CorpusError) as caught:
        read_corpus(root, pattern)
    assert "2 of 3" in str(caught.value) and "'03/joy_1.wav.bak.wav'" in str(caught.value)
    corpus = read_corpus(root, pattern + r"|noise/.*|.*\.bak\.wav")
    assert [u.id for u in corpus.utterances] == ["03/joy_1.wav"]
    assert corpus.notes == ("2 audio files left out by an alternative of the pattern that sets no group",)


def test_the_way_out_that_the_error_shows_works(make):
    root = make("03/joy_1.wav", "a+(1).wav")
    with pytest.raises(CorpusError) as caught:
        read_corpus(root, r"folders:(?P<speaker>\d+)/.*")
    shown = str(caught.value).rsplit("'", 2)[1].replace("\\\\", "\\")
    assert len(read_corpus(root, "folders:" + shown).utterances) == 1


@pytest.mark.parametrize("pattern", ["(?P<speaker", ".*", r"(?P<file>.*)"])
def test_faulty_patterns(make, pattern):
    with pytest.raises(CorpusError, match="pattern"):
        read_corpus(make("a.wav"), "folders:" + pattern)


def test_pattern_that_leaves_everything_out(make):
    with pytest.raises(CorpusError, match="no utterance"):
        read_corpus(make("a.wav"), r"folders:(?P<x>b)\.wav|a\.wav")


def test_links_are_not_followed_away(make, tmp_path):
    root = make("joy/a.wav", "sad/b.wav")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.wav").touch()
    (root / "joy/out.wav").symlink_to(tmp_path / "outside/secret.wav")
    (root / "away").symlink_to(tmp_path / "outside")
    (root / "joy/up").symlink_to(root)
    (root / "joy/again.wav").symlink_to(root / "sad/b.wav")
    (root / "joy/loop.wav").symlink_to(root / "joy/loop.wav")
    corpus = read_corpus(root)
    assert [u.id for u in corpus.utterances] == ["joy/a.wav", "joy/again.wav", "joy/loop.wav", "sad/b.wav"]
    assert corpus.notes == ("left out: 3 links to folders or out of the corpus",)


def test_root_may_be_a_link(make, tmp_path):
    root = make("joy/a.wav", "sad/b.wav")
    (root / "joy/c.wav").symlink_to(root / "sad/b.wav")
    (tmp_path / "link").symlink_to(root)
    assert len(read_corpus(tmp_path / "link").utterances) == 3


def test_folder_that_may_not_be_read(make, monkeypatch):
    root = make("a.wav", "locked/b.wav")
    scandir = folders.os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(path)
        return scandir(path)

    monkeypatch.setattr(folders.os, "scandir", refuse)
    with pytest.raises(CorpusError, match="locked.*permissions"):
        folders.read(root, None)


def test_no_audio(make):
    root = make("readme.txt")
    assert not folders.recognises(root) and not folders.recognises(root / "readme.txt")
    with pytest.raises(CorpusError, match="1 files that are no audio"):
        folders.read(root, None)
    with pytest.raises(CorpusError, match="is a file"):
        folders.read(root / "readme.txt", None)
