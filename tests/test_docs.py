"""The documents, held to the code: README commands run, its table is the catalogue, --help teaches."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from click import Command

from vbx.cache.feature import list_features
from vbx.cli import app
from vbx.extract.synthesis import synthesise_corpus

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def feature_table() -> str:
    lines = [f"| `{f['feature']}` | {f['dim']} | {f['about']} | {f['licence']} |" for f in list_features()]
    return "\n".join(["| feature | dim | what it is | licence |", "|---|---|---|---|", *lines])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `corpus/`, as the quick start has it."""
    place = tmp_path_factory.mktemp("readme")
    corpus = synthesise_corpus(place / "corpus", speakers=6, clips_per_speaker=3)
    labels = (corpus / "labels.csv").read_text().splitlines()
    header = labels[0].split(",")
    # the quick start speaks of a class `emotion`; the made-up corpus has intensities
    rows = [f"{line},{'calm' if i % 2 else 'excited'}" for i, line in enumerate(labels[1:])]
    (corpus / "labels.csv").write_text("\n".join([labels[0] + ",emotion", *rows]) + "\n")
    first = corpus / labels[1].split(",")[header.index("file")]
    (corpus / "audio").mkdir(exist_ok=True)
    (corpus / "audio" / "clip.wav").write_bytes(first.read_bytes())
    return place


def run(command: str, place: Path) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command, comments=True)
    return subprocess.run(
        [sys.executable, "-m", "vbx", *words[1:]], cwd=place, capture_output=True, text=True, check=False
    )


def test_the_quick_start_runs_as_written(place: Path) -> None:
    (block,) = blocks("sh")
    assert len(block.splitlines()) == 6
    for line in block.splitlines():
        done = run(line, place)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_table_of_features_is_the_catalogue() -> None:
    assert feature_table() in README


def commands() -> list[tuple[str, Command]]:
    found: list[tuple[str, Command]] = []

    def walk(name: str, command: Command) -> None:
        found.append((name, command))
        for sub, child in getattr(command, "commands", {}).items():
            walk(f"{name} {sub}", child)

    walk("vbx", typer.main.get_command(app))  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(("name", "command"), commands(), ids=lambda v: v if isinstance(v, str) else "")
def test_every_command_and_option_has_help(name: str, command: Command) -> None:
    assert command.help and len(command.help) > 10
    for parameter in command.params:
        if parameter.name != "help":
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_every_command_that_the_documents_name_exists() -> None:
    known = {name for name, _ in commands()}
    for document in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        for words in re.findall(r"`?vbx((?: [a-z]+)+)", text):
            first, *rest = words.split()
            group = f"vbx {first}"
            if group in known or first in {"extract", "heads", "cache"}:
                assert group in known, words
                if rest and group in {"vbx heads", "vbx cache"}:
                    assert f"{group} {rest[0]}" in known, words


def test_architecture_is_one_page_and_names_files_that_are_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 100
    for path in re.findall(r"`((?:cache|extract|heads|commands)/[a-z0-9_/.]+)`", text):
        assert (ROOT / "vbx" / path).exists(), path


def test_the_encoder_and_the_reader_of_contributing_work(tmp_path: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    encoder, reader = re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S)
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "loudness.py").write_text(encoder)
    (tmp_path / "mylab" / "ravdess.py").write_text(reader)
    made = synthesise_corpus(tmp_path / "made", speakers=3, clips_per_speaker=2)
    for i, path in enumerate(sorted(made.rglob("*.wav"))):
        target = tmp_path / "ravdess" / f"Actor_{i % 3:02d}" / f"03-01-0{i + 1}-01-01-01-0{i % 3}.wav"
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    command = "vbx extract ravdess --reader mylab.ravdess -f mylab.loudness:rms --json"
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"extracted": 6' in done.stdout
