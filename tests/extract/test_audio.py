"""Audio in: against soundfile and soxr in one go, and files that are not what they should be."""

import os
import struct
import sys
import tracemalloc
import wave as wave_module
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
import pytest
import soundfile
import soxr

import vbx
from vbx.errors import AudioError, UnknownName
from vbx.extract.audio import header_seconds, normalise, read_wave
from vbx.extract.headers import Header, read_header


@pytest.fixture(scope="module")
def burst() -> np.ndarray:
    """Three seconds of noise with two channels, 44.1 kHz: three blocks and a bit."""
    return (np.random.default_rng(0).standard_normal((132300, 2)) * 0.1).astype(np.float32)


def reference(path: Path, sample_rate: int = 16000, quality: str = "HQ") -> np.ndarray:
    """Read whole, mix, resample in one go."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    return mono if rate == sample_rate else soxr.resample(mono, rate, sample_rate, quality=quality)


def write(path: Path, samples: np.ndarray, rate: int = 44100, **options: object) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def cut(path: Path, share: float = 0.6) -> Path:
    data = path.read_bytes()
    short = path.with_name("cut-" + path.name)
    short.write_bytes(data[: int(len(data) * share)])
    return short


# ---------------------------------------------------------------- what is read


def test_read_wave_is_public() -> None:
    assert vbx.read_wave is read_wave


@pytest.mark.parametrize("quality", ["QQ", "LQ", "MQ", "HQ", "VHQ"])
@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_block_by_block_equals_at_once(tmp_path: Path, burst: np.ndarray, rate: int, quality: str) -> None:
    path = write(tmp_path / "a.wav", burst, rate)
    np.testing.assert_array_equal(read_wave(path, resampler=f"soxr-{quality}"), reference(path, quality=quality))


@pytest.mark.parametrize(
    ("name", "subtype"),
    [
        ("a.wav", "PCM_U8"),
        ("a.wavex", "PCM_24"),
        ("a.wavex", "FLOAT"),
        ("a.wav", "PCM_24"),
        ("a.wav", "PCM_32"),
        ("a.wav", "FLOAT"),
        ("a.wav", "DOUBLE"),
        ("a.wav", "ULAW"),
        ("a.wav", "MS_ADPCM"),
        ("a.w64", "PCM_16"),
        ("a.rf64", "PCM_16"),
        ("a.caf", "PCM_16"),
        ("a.au", "PCM_16"),
        ("a.aiff", "PCM_24"),
        ("a.flac", "PCM_16"),
        ("a.ogg", "VORBIS"),
        ("a.mp3", "MPEG_LAYER_III"),
    ],
)
def test_formats(tmp_path: Path, burst: np.ndarray, name: str, subtype: str) -> None:
    path = write(tmp_path / name, burst, subtype=subtype)
    wave = read_wave(path)
    assert wave.dtype == np.float32 and wave.ndim == 1 and wave.flags.c_contiguous and wave.flags.writeable
    np.testing.assert_array_equal(wave, reference(path))
    assert header_seconds(path) == pytest.approx(len(wave) / 16000, abs=0.02)


def test_every_real_format(corpora: Path) -> None:
    table = pd.read_csv(corpora / "formats" / "files.csv")
    for file, rate, frames in zip(table["file"], table["sr"], table["decoded_frames"], strict=True):
        path = corpora / "formats" / file
        assert len(read_wave(path, int(rate))) == frames, file
        # soundfile.read seeks first, after which an MP3 decoder rounds differently.
        np.testing.assert_allclose(read_wave(path), reference(path), atol=1e-6, rtol=0, err_msg=file)


def test_channels(tmp_path: Path, burst: np.ndarray) -> None:
    three = np.concatenate([burst, burst[::-1, :1]], axis=1)
    path = write(tmp_path / "a.wav", three, subtype="FLOAT")
    np.testing.assert_array_equal(read_wave(path, 44100, channel="2"), three[:, 2])
    np.testing.assert_allclose(read_wave(path, 44100), three.mean(axis=1), atol=1e-8)
    with pytest.raises(AudioError, match=r"a.wav' has no channel 3: it has 3"):
        read_wave(path, channel="3")
    with pytest.raises(UnknownName, match="unknown channel 'left'"):
        read_wave(path, channel="left")


def test_unknown_resampler(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown resampler 'sox-HQ'; did you mean 'soxr-HQ'"):
        read_wave(tmp_path / "a.wav", resampler="sox-HQ")


def test_full_scale_of_16_bits(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.array([-32768, 32767, 0, 1], np.int16), 16000)
    assert read_wave(path).tolist() == [-1.0, 32767 / 32768, 0.0, 1 / 32768]


# ---------------------------------------------------------------- segments


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg", "a.opus", "adpcm.wav"])
def test_segment_is_a_slice_of_the_whole(tmp_path: Path, burst: np.ndarray, name: str) -> None:
    options = {"a.opus": {"format": "OGG", "subtype": "OPUS"}, "adpcm.wav": {"subtype": "IMA_ADPCM"}}
    path = write(tmp_path / name, burst, 48000, **options.get(name, {}))
    whole = read_wave(path, 48000)
    for start, end in [(0.0, 0.5), (0.1234, 0.9), (0.6826875, 0.7), (1.5, 2.71), (2.2, None), (0.0, None)]:
        last = None if end is None else round(end * 48000)
        piece = read_wave(path, 48000, start_s=start, end_s=end)
        np.testing.assert_array_equal(piece, whole[round(start * 48000) : last])


def test_segment_is_resampled_by_itself(tmp_path: Path, burst: np.ndarray) -> None:
    path = write(tmp_path / "a.wav", burst, subtype="FLOAT")
    expected = soxr.resample(burst[22050:66150].mean(axis=1), 44100, 16000)
    np.testing.assert_array_equal(read_wave(path, start_s=0.5, end_s=1.5), expected)


@pytest.mark.parametrize("name", ["a.wav", "a.mp3"])
def test_segment_beyond_the_end(tmp_path: Path, burst: np.ndarray, name: str) -> None:
    path = write(tmp_path / name, burst)  # 3 s
    assert len(read_wave(path, 44100, start_s=2.0, end_s=3.009)) == 44100
    with pytest.raises(AudioError, match=rf"from 2.000 s to 3.020 s .*{name}', which is 3.000 s long"):
        read_wave(path, start_s=2.0, end_s=3.02)
    with pytest.raises(AudioError, match=rf"from 7.500 s to the end .*{name}', which is 3.000 s long"):
        read_wave(path, start_s=7.5)
    for start, end in [(1.0, 1.0), (2.0, 1.0), (-0.1, 1.0), (float("nan"), None)]:
        with pytest.raises(AudioError, match="is empty or begins before the file"):
            read_wave(path, start_s=start, end_s=end)
    with pytest.raises(AudioError, match="shorter than a sample"):
        read_wave(path, start_s=1.0, end_s=1.000001)


# ---------------------------------------------------------------- files that are not what they should be


def test_no_audio_there(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"there is no file .*gone.wav"):
        read_wave(tmp_path / "gone.wav")
    with pytest.raises(AudioError, match="is a folder"):
        read_wave(tmp_path)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(AudioError, match="cannot be opened: Not a directory"):
        read_wave(tmp_path / "file" / "a.wav")
    (tmp_path / "empty.wav").touch()
    with pytest.raises(AudioError, match=r"empty.wav' is empty: it has 0 bytes"):
        read_wave(tmp_path / "empty.wav")
    with pytest.raises(AudioError, match=r"none.wav' has no samples"):
        read_wave(write(tmp_path / "none.wav", np.zeros(0)))


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.flac", "a.ogg", "a.au", "a.raw", "a.vox", "a.m4a", "a.aac"])
@pytest.mark.parametrize("content", [b"This is a text about audio, not audio.\n" * 100, bytes(4000), b"RIFF", b"x"])
def test_not_audio(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AudioError, match=name):
        read_wave(tmp_path / name)
    assert header_seconds(tmp_path / name) is None


@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
@pytest.mark.parametrize(
    "name",
    ["a.wav", "a.w64", "a.rf64", "a.caf", "a.au", "a.aiff", "a.flac", "a.mp3", "a.ogg", "a.opus", "a.nist"],
)
def test_truncated(tmp_path: Path, burst: np.ndarray, name: str, share: float) -> None:
    options = {"a.opus": {"format": "OGG", "subtype": "OPUS"}, "a.nist": {"format": "NIST", "subtype": "PCM_16"}}
    path = write(tmp_path / name, burst, 48000, **options.get(name, {}))
    read_wave(path)
    with pytest.raises(AudioError, match=rf"cut-{name}' is truncated"):
        read_wave(cut(path, share))


def test_truncated_big_endian_wav(tmp_path: Path, burst: np.ndarray) -> None:
    path = write(tmp_path / "a.wav", burst, endian="BIG")
    assert path.read_bytes()[:4] == b"RIFX"
    with pytest.raises(AudioError, match="is truncated: its header announces"):
        read_wave(cut(path))


def test_truncated_real_files(corpora: Path, tmp_path: Path) -> None:
    # Opus and MP3 of a second have few pages or frames; the Common Voice MP3 has no header that tells its length.
    for source in sorted((corpora / "formats" / "audio").iterdir()):
        path = tmp_path / source.name
        path.write_bytes(source.read_bytes())
        if source.name != "common_voice_en_651325.mp3":
            with pytest.raises(AudioError, match="is truncated"):
                read_wave(cut(path))


def test_flac_cut_between_two_frames(tmp_path: Path, burst: np.ndarray) -> None:
    path = write(tmp_path / "a.flac", burst)
    data = path.read_bytes()
    path.write_bytes(data[: data.rfind(b"\xff\xf8", 0, len(data) // 2)])
    with pytest.raises(AudioError, match="is truncated"):
        read_wave(path)


def test_flac_with_a_flipped_bit(tmp_path: Path, burst: np.ndarray) -> None:
    path = write(tmp_path / "a.flac", burst)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(AudioError, match="is truncated or damaged: it cannot be decoded beyond"):
        read_wave(path)


@pytest.mark.parametrize("stated", [0, 0xFFFFFFFF, 0x7FFFF000])
@pytest.mark.parametrize("riff", [0, 36, 0xFFFFFFFF])
@pytest.mark.parametrize("silence", [False, True])
def test_wav_from_a_pipe(tmp_path: Path, burst: np.ndarray, stated: int, riff: int, silence: bool) -> None:
    samples = np.concatenate([burst[:44100] * 0, burst[44100:]]) if silence else burst
    path, closed = tmp_path / "a.wav", write(tmp_path / "closed.wav", samples)
    whole, data = read_wave(closed), bytearray(closed.read_bytes())
    data[4:8], data[40:44] = struct.pack("<I", riff), struct.pack("<I", stated)
    path.write_bytes(data)
    np.testing.assert_array_equal(read_wave(path), whole)
    piece = read_wave(path, 44100, start_s=1.0)
    np.testing.assert_array_equal(piece, soundfile.read(closed, start=44100, dtype="float32")[0].mean(axis=1))


def test_wav_without_samples_but_with_a_tag(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.zeros(0))
    path.write_bytes(path.read_bytes()[:44] + b"LIST" + struct.pack("<I", 4) + b"INFO")
    with pytest.raises(AudioError, match="has no samples"):
        read_wave(path)


def test_flac_from_a_pipe(tmp_path: Path, burst: np.ndarray) -> None:
    path = write(tmp_path / "a.flac", burst)
    whole, data = read_wave(path), bytearray(path.read_bytes())
    data[21] &= 0xF0  # STREAMINFO: 36 bits of "total samples", 0 for unknown
    data[22:26] = bytes(4)
    path.write_bytes(data)
    np.testing.assert_array_equal(read_wave(path), whole)
    assert header_seconds(path) is None


def test_tags_and_odd_chunks_are_no_cut(tmp_path: Path, burst: np.ndarray) -> None:
    path = write(tmp_path / "a.wav", burst)
    data, whole = path.read_bytes(), read_wave(path)
    path.write_bytes(data[:36] + b"LIST" + struct.pack("<I", 3) + b"abc\x00" + data[36:] + b"id3 " + b"\x10\0\0\0")
    np.testing.assert_array_equal(read_wave(path), whole)
    path = write(tmp_path / "a.mp3", burst)
    data, whole = path.read_bytes(), read_wave(path)
    path.write_bytes(b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128) + data + b"TAG" + bytes(125))
    np.testing.assert_array_equal(read_wave(path), whole)


def test_headers_that_end_early(tmp_path: Path) -> None:
    heads = [
        b".snd\0\0",
        b"NIST_1A\n   1024\n",
        b"caff\0\1\0\0data",
        b"FORM\0\0\0\0AIFF",
        b"OggS\0",
        b"\xff\xfb\x90\x64",
    ]
    for i, head in enumerate(heads):
        path = tmp_path / f"{i}.wav"
        path.write_bytes(head)
        with pytest.raises(AudioError, match=f"{i}.wav"):
            read_wave(path)


def test_samples_that_are_not_finite(tmp_path: Path, burst: np.ndarray) -> None:
    samples = burst[:, 0].copy()
    samples[88200], samples[88300:88302] = np.nan, [np.inf, -np.inf]
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"has 3 samples that are not finite .* the first at 2.000 s"):
        read_wave(path)
    with pytest.raises(AudioError, match=r"has 2 samples that are not finite .* the first at 2.002 s"):
        read_wave(path, start_s=2.001)
    assert len(read_wave(path, end_s=2.0)) == 32000


def test_header_seconds(tmp_path: Path, burst: np.ndarray) -> None:
    assert header_seconds(write(tmp_path / "a.wav", burst)) == 3.0
    assert header_seconds(tmp_path / "gone.wav") is None
    assert header_seconds(tmp_path) is None
    assert header_seconds("a\0b.wav") is None


def test_python_wave_module_to_a_pipe(tmp_path: Path) -> None:
    """A real writer that leaves the sizes unset."""

    class Pipe:
        def __init__(self) -> None:
            self.data = b""

        def write(self, raw: bytes) -> int:
            self.data += raw
            return len(raw)

        def flush(self) -> None: ...

    pipe = Pipe()
    writer = wave_module.open(pipe, "wb")  # type: ignore[arg-type]
    writer.setparams((1, 2, 16000, 0, "NONE", ""))
    writer.writeframesraw(np.arange(5000, dtype="<i2").tobytes())
    (tmp_path / "a.wav").write_bytes(pipe.data)
    np.testing.assert_array_equal(read_wave(tmp_path / "a.wav") * 32768, np.arange(5000))


def test_memory_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with soundfile.SoundFile(path, "w", 48000, 2) as file:
        for _ in range(20):
            file.write(np.zeros((480000, 2), np.int16))
    tracemalloc.start()
    wave = read_wave(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(wave) == 200 * 16000
    assert peak < wave.nbytes + 2e6  # decoded it would be 77 MB, or 38 in mono


# ---------------------------------------------------------------- what damaged files have shown


def damaged(path: Path, at: int, field: bytes) -> Path:
    data = bytearray(path.read_bytes())
    data[at : at + len(field)] = field
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("rate", [1, 999, 10_000_001, 2**31 - 1])
def test_absurd_sample_rate(tmp_path: Path, burst: np.ndarray, rate: int) -> None:
    path = damaged(write(tmp_path / "a.wav", burst), 24, struct.pack("<I", rate))
    with pytest.raises(AudioError, match=rf"a.wav' has a sample rate of {rate} Hz: its header must be damaged"):
        read_wave(path)


def test_samples_that_overflow(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.full((4410, 2), 3e38, np.float32), subtype="FLOAT")
    with pytest.raises(AudioError, match="has 4410 samples that are not finite"):  # their sum
        read_wave(path)
    high = write(tmp_path / "b.wav", np.tile([3.4e38, -3.4e38], 4410).astype(np.float32), subtype="FLOAT")
    assert len(read_wave(high, 44100)) == 8820
    square = write(tmp_path / "c.wav", np.repeat([3.4e38, -3.4e38], 4410).astype(np.float32), subtype="FLOAT")
    with pytest.raises(AudioError, match=r"c.wav' has samples too large to be resampled"):
        read_wave(square)


@pytest.mark.parametrize(("name", "at", "size"), [("a.caf", 12, 8), ("a.w64", 56, 8)])
@pytest.mark.parametrize("field", [b"\x7f" * 8, b"\xff" * 8, b"\x40" + bytes(7), bytes(7) + b"\x40"])
def test_chunk_of_absurd_size(tmp_path: Path, burst: np.ndarray, name: str, at: int, size: int, field: bytes) -> None:
    path = damaged(write(tmp_path / name, burst), at, field[:size])
    with pytest.raises(AudioError, match=name):
        read_wave(path)
    header_seconds(path)


def test_riff_that_is_no_wav(tmp_path: Path, burst: np.ndarray) -> None:
    path = damaged(write(tmp_path / "a.wav", burst), 8, b"AVI ")
    with pytest.raises(AudioError, match=r"a.wav' is not audio"):
        read_wave(path)
    assert header_seconds(path) is None


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT"])
def test_plain_wav_is_what_libsndfile_reads(tmp_path: Path, subtype: str) -> None:
    """Every value of 16 bits, extremes of the others; from any frame on, over the edges of blocks."""
    samples = np.concatenate([np.linspace(-1, 1, 65536), [-1, 1, 2**-23, -(2**-31), 0.1]])[:, None].repeat(3, axis=1)
    samples[:, 1] = samples[::-1, 0]
    path = write(tmp_path / "a.wav", samples, 16000, subtype=subtype)
    for first, last in [(0, None), (0, 1), (16383, 16385), (1, 65541), (40000, 65540)]:
        expected = soundfile.read(path, start=first, stop=last, dtype="float32")[0]
        times = {"start_s": first / 16000, "end_s": last and last / 16000}
        for channel in range(3):
            found = read_wave(path, 16000, channel=str(channel), **times)
            np.testing.assert_array_equal(found, expected[:, channel])


def test_wav_that_shrinks_while_it_is_read(tmp_path: Path, burst: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.wav", burst)

    def read_and_cut(file: BinaryIO, size: int) -> Header:
        header = read_header(file, size)
        os.truncate(path, size - 1)
        return header

    monkeypatch.setattr("vbx.extract.audio.read_header", read_and_cut)
    with pytest.raises(AudioError, match="became shorter while it was read"):
        read_wave(path)


# ---------------------------------------------------------------- through PyAV


def encode(path: Path, samples: np.ndarray, codec: str, rate: int, options: dict[str, str] | None = None) -> Path:
    """A file written by PyAV itself."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        frame.pts = 0
        wanted = stream.codec_context.codec.audio_formats[0].name
        resampler = av.AudioResampler(wanted, "mono", rate, frame_size=1024)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def tone() -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(3 * 48000) / 48000)).astype(np.float32)


def test_alac_in_m4a_is_exact(tmp_path: Path, tone: np.ndarray) -> None:
    path = encode(tmp_path / "a.m4a", tone, "alac", 48000)
    np.testing.assert_allclose(read_wave(path, 48000), tone, atol=1e-6)
    np.testing.assert_array_equal(read_wave(path), soxr.resample(read_wave(path, 48000), 48000, 16000))
    piece = read_wave(path, 48000, start_s=0.77, end_s=1.9)
    np.testing.assert_array_equal(piece, read_wave(path, 48000)[36960:91200])


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.mp4", "aac"), ("a.webm", "libopus")])
def test_containers(tmp_path: Path, tone: np.ndarray, name: str, codec: str) -> None:
    wave = read_wave(encode(tmp_path / name, tone, codec, 48000), 48000)
    assert abs(len(wave) - len(tone)) <= 2048
    # In step with what was written: no codec's run-in is left at the begin.
    assert np.corrcoef(wave[10000:130000], tone[10000:130000])[0, 1] > 0.99


def test_raw_aac_by_its_first_bytes(tmp_path: Path, tone: np.ndarray) -> None:
    path = encode(tmp_path / "a.aac", tone, "aac", 48000).rename(tmp_path / "a.dat")
    assert len(read_wave(path)) == pytest.approx(48000, abs=1400)
    with pytest.raises(AudioError, match="truncated or damaged: FFmpeg says"):
        read_wave(cut(path))


def test_truncated_containers(tmp_path: Path, tone: np.ndarray) -> None:
    with pytest.raises(AudioError, match=r"a.m4a' is not audio that FFmpeg can read"):  # the table of contents is gone
        read_wave(cut(encode(tmp_path / "a.m4a", tone, "aac", 48000)))
    early = encode(tmp_path / "early.m4a", tone, "aac", 48000, {"movflags": "faststart"})
    assert len(read_wave(early)) == pytest.approx(48000, abs=800)
    for path in (early, encode(tmp_path / "a.webm", tone, "libopus", 48000)):
        with pytest.raises(AudioError, match="is truncated"):
            read_wave(cut(path))


def test_tags_in_no_known_encoding(tmp_path: Path, tone: np.ndarray) -> None:
    path = encode(tmp_path / "a.m4a", tone, "alac", 48000)
    whole = read_wave(path)
    np.testing.assert_array_equal(read_wave(damaged(path, 10, b"\xff")), whole)  # FFmpeg shows the brand as a tag


def test_stream_that_changes(tmp_path: Path, tone: np.ndarray) -> None:
    """Two streams of AAC in one file: FFmpeg decodes on, with another rate."""
    one, two = (encode(tmp_path / f"{rate}.aac", tone, "aac", rate) for rate in (48000, 32000))
    path = tmp_path / "a.aac"
    path.write_bytes(one.read_bytes() + two.read_bytes())
    with pytest.raises(AudioError, match=r"a.aac' changes its sample rate from 48000 to 32000 Hz"):
        read_wave(path)


def test_video_without_sound(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        container.mux(stream.encode(None))
    with pytest.raises(AudioError, match="has no audio in it"):
        read_wave(path)


def test_without_pyav_the_extra_is_named(tmp_path: Path, tone: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "a.m4a", tone, "aac", 48000)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r"a.m4a' is in a format .* pip install 'vbx\[av\]'"):
        read_wave(path)


# ---------------------------------------------------------------- normalisation


def test_peak_is_that_of_librosa(burst: np.ndarray) -> None:
    librosa = pytest.importorskip("librosa")
    wave = burst[:, 0]
    np.testing.assert_array_equal(normalise(wave, "peak"), librosa.util.normalize(wave))


def test_peak(burst: np.ndarray) -> None:
    wave = burst[:, 0]
    np.testing.assert_allclose(normalise(wave, "peak"), wave.astype(float) / np.abs(wave).max(), rtol=1e-7)
    assert normalise(wave, "peak").dtype == np.float32
    assert normalise(wave, "none") is wave


@pytest.mark.parametrize("silence", [np.zeros(10), np.full(10, 1e-40), np.zeros(0)])
def test_silence_stays(silence: np.ndarray) -> None:
    wave = silence.astype(np.float32)
    np.testing.assert_array_equal(normalise(wave, "peak"), wave)


def test_unknown_normalisation() -> None:
    with pytest.raises(UnknownName, match="unknown normalisation 'peek'; did you mean 'peak'"):
        normalise(np.zeros(3, np.float32), "peek")


@pytest.mark.slow
@pytest.mark.parametrize("pack", ["emodb_4class", "emogator_50", "fsdd_600", "nemo_96_NC", "donateacry_88"])
def test_every_real_clip_decodes(corpora: Path, pack: str) -> None:
    files = [p for p in (corpora / pack / "audio").rglob("*") if p.suffix.lower() in {".wav", ".mp3"}]
    assert len(files) > 50
    for path in files:
        np.testing.assert_allclose(read_wave(path), reference(path), atol=1e-6, rtol=0, err_msg=str(path))
