"""Claims: a run is free, claimed by one living process, or finished; whoever dies gives back what it held."""

import errno
import os
import signal
import time

import pytest

from vbx.errors import CacheError
from vbx.heads.results import claims as claims_
from vbx.heads.results.claims import Ahead, open_claims


def no_keys(part):
    return set()


def files(out):
    return sorted(path.name for path in out.glob(".claims-*"))


def in_child(out, keys, then):
    """Claim in a process of its own, which then does something; its id, once it has claimed."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        with open_claims(out, no_keys) as claims:
            claims.take(keys)
            os.write(tell, b"!")
            then()
        os._exit(0)
    assert os.read(told, 1) == b"!"
    os.close(told)
    os.close(tell)
    return pid


def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_what_one_claims_another_does_not_get(tmp_path):
    with open_claims(tmp_path, no_keys) as a, open_claims(tmp_path, no_keys) as b:
        a.take(["1", "2"])
        b.take(["2", "3"])
        a.take(["3", "4"])
        assert (a.mine, b.mine) == ({"1", "2", "4"}, {"3"})
        assert (a.others, b.others) == ({"3"}, {"1", "2"})  # b looked before a claimed 4
        assert a.living == {b.name} and b.is_free("4") and not a.is_free("3")
        b.take(())
        assert not b.is_free("4")
    assert files(tmp_path) == []


def test_what_a_killed_process_claimed_is_free(tmp_path):
    pid = in_child(tmp_path, ["1", "2"], signal.pause)
    with open_claims(tmp_path, no_keys) as claims:
        claims.take(["1"])
        assert claims.mine == set() and claims.others == {"1", "2"} and len(claims.living) == 1
        end(pid)
        claims.take(["1"])
        assert claims.mine == {"1"} and claims.others == set() and claims.living == set()
        assert files(tmp_path) == [f".claims-{claims.name}"]


def test_a_forked_child_does_not_keep_its_parents_claims(tmp_path):
    def fork_and_wait():
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        signal.pause()

    pid = in_child(tmp_path, ["1"], fork_and_wait)
    time.sleep(0.2)  # the grandchild is there
    end(pid)
    with open_claims(tmp_path, no_keys) as claims:
        claims.take(["1"])
        assert claims.mine == {"1"}


def test_a_forked_child_that_ends_leaves_its_parents_claims(tmp_path):
    with open_claims(tmp_path, no_keys) as claims:
        claims.take(["1"])
        if (pid := os.fork()) == 0:
            claims.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0 and files(tmp_path) == [f".claims-{claims.name}"]
        with open_claims(tmp_path, no_keys) as other:
            other.take(["1"])
            assert other.mine == set()


def test_what_is_finished_is_not_claimed_and_no_longer_ours(tmp_path):
    finished = {}

    def read(part):
        return finished[part.name]

    with open_claims(tmp_path, read) as claims:
        claims.take(["1", "2"])
        finished["runs-a.parquet"] = {"1", "3"}
        (tmp_path / "runs-a.parquet").touch()
        claims.take(["3", "4"])
        assert claims.mine == {"2", "4"} and claims.finished == {"1", "3"}
        assert (tmp_path / f".claims-{claims.name}").read_text() == "2\n4\n"
        finished.clear()  # a part is read once
        claims.take(())


def test_claims_run_ahead_by_two_seconds_of_work(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(claims_.time, "monotonic", lambda: clock[0])
    order = [str(i) for i in range(100)]
    with open_claims(tmp_path, no_keys) as claims, open_claims(tmp_path, no_keys) as other:
        ahead = Ahead(claims, order)
        assert ahead.ours(order[:1]) == [True] and claims.mine == {"0"}  # nothing is known of the pace
        clock[0], ahead.done = 1.0, 5
        assert ahead.ours(order[1:2]) == [True] and claims.mine == set(order[:12])  # itself, and 2 s of 5 a second
        before = len(claims.mine)
        assert ahead.ours(order[2:3]) == [True] and len(claims.mine) == before  # no trip to the disk
        other.take([*order[5:20], *order[50:60]])
        assert other.mine == {*order[12:20], *order[50:60]}
        clock[0] = 1e9
        assert ahead.ours(order[10:14]) == [True, True, False, False]


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_claims(tmp_path, no_keys) as claims:
        with monkeypatch.context() as patch:
            patch.setattr(claims_.os, "pwrite", full)
            with pytest.raises(CacheError, match="No space left on device"):
                claims.take(["1"])
        with open_claims(tmp_path, no_keys) as other:
            other.take(["1"])
            assert other.mine == {"1"}  # what was not written was not claimed


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    real = claims_.fcntl.flock

    def flock(handle, how):
        if ".claims" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOLCK, "No locks available")
        real(handle, how)

    monkeypatch.setattr(claims_.fcntl, "flock", flock)
    with pytest.raises(CacheError, match="No locks available"), open_claims(tmp_path, no_keys):
        pass
