"""The number of threads follows the cores of the process, and the user's own settings take precedence."""

import os
import subprocess
import sys
import time

import pytest

from continuous_unet.base import threads

FILES = {
    "no group": ({}, None),
    "version 2": ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 1.5),
    "version 2, no limit": ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"}, None),
    "limit of a parent": (
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
        },
        3.0,
    ),
    "container, path of the host": (
        {"proc/self/cgroup": "0::/kube/pod\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"},
        0.5,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "3:cpuset:/\n2:cpu,cpuacct:/a\n0::/\n",
            "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
        },
        2.0,
    ),
    "version 1, no limit": (
        {
            "proc/self/cgroup": "2:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        None,
    ),
    "damaged": ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "many\n"}, None),
}


@pytest.mark.parametrize("kind", FILES)
def test_the_quota_of_control_groups(kind, tmp_path):
    files, expected = FILES[kind]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads.cpu_quota(tmp_path) == expected


@pytest.mark.parametrize(
    ("quota", "given", "count"),
    [(None, {}, None), (1.5, {}, "2"), (0.2, {}, "1"), (1.5, {"OMP_NUM_THREADS": "7"}, "7"), (9.0, {}, None)],
)
def test_a_quota_limits_the_threads_unless_the_user_has_chosen(quota, given, count, monkeypatch):
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    monkeypatch.setattr(threads, "allowed_cores", lambda: 4)
    environment = dict(given)
    threads.prepare_threads(environment)
    assert environment.get("OMP_NUM_THREADS") == count


@pytest.mark.parametrize("name", threads.WAITING)
def test_the_user_chooses_how_threads_wait(name):
    environment = {name: "PASSIVE"}
    threads.prepare_threads(environment)
    assert [key for key in threads.WAITING if key in environment] == [name]


def test_the_command_line_prepares_the_threads_before_it_imports_torch():
    code = (
        "import os, sys; from continuous_unet.cli.main import main; assert 'torch' not in sys.modules; "
        "main(['--version']); print(os.environ['GOMP_SPINCOUNT'])"
    )
    environment = {key: value for key, value in os.environ.items() if key not in threads.WAITING}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == str(threads.SPINS)


def test_a_library_that_has_imported_torch_keeps_its_environment(monkeypatch):
    for name in threads.WAITING:
        monkeypatch.delenv(name, raising=False)
    import torch  # noqa: F401

    threads.prepare_threads()
    assert "GOMP_SPINCOUNT" not in os.environ


class Clock:
    """A clock that the test moves, and the processor time that other programs have used by then."""

    def __init__(self, monkeypatch):
        self.now, self.others, self.load = 0.0, 0.0, 0.0
        monkeypatch.setattr(threads.time, "monotonic", lambda: self.now)

    def wait(self, seconds=2.5):
        self.now += seconds
        self.others += seconds * self.load


@pytest.mark.parametrize(
    ("cores", "load", "found"),
    [(2, 0.0, 2), (2, 0.3, 2), (2, 1.0, 1), (2, 5.0, 1), (8, 3.0, 5), (8, 7.4, 1)],
)
def test_other_programs_get_the_cores_that_they_need_and_give_them_back(cores, load, found, monkeypatch):
    monkeypatch.setattr(threads, "allowed_cores", lambda: cores)
    clock = Clock(monkeypatch)
    share = threads.CoreShare(cores, lambda: clock.others)
    clock.load = load
    for _ in range(5):
        clock.wait()
        share.look()
    assert share.threads == found
    clock.load = 0.0
    for _ in range(5):
        clock.wait()
        share.look()
    assert share.threads == cores


def test_two_that_share_their_cores_come_to_rest(monkeypatch):
    monkeypatch.setattr(threads, "allowed_cores", lambda: 16)
    clock = Clock(monkeypatch)
    times = [0.0, 0.0]
    first, second = (threads.CoreShare(16, lambda other=other: times[other]) for other in (1, 0))
    first.threads, second.threads = 8, 4  # one began before the other had its threads
    seen = []
    for _ in range(8):
        clock.wait()
        wanted = first.threads + second.threads
        for number, share in enumerate((first, second)):
            times[number] += 2.5 * share.threads * min(1, 16 / wanted)
        first.look()
        second.look()
        seen.append((first.threads, second.threads))
    assert seen[-1] == seen[-2] == seen[-3]
    assert 14 <= sum(seen[-1]) <= 16


def test_the_time_of_others_leaves_out_what_is_nice_and_other_cores(tmp_path, monkeypatch):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(
        "cpu  9 9 9 9 9 9 9 0 0 0\ncpu0 100000 50000 20000 7 7 3000 4000 0 0 0\ncpu1 900000 1 1 1 1 1 1 0 0 0\nintr 5\n"
    )
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setattr(threads.os, "nice", lambda _: 0)
    own = os.times()
    found = threads.time_of_others(tmp_path)
    assert found == pytest.approx(127000 / os.sysconf("SC_CLK_TCK") - own.user - own.system, abs=2)
    monkeypatch.setattr(threads.os, "nice", lambda _: 5)
    assert threads.time_of_others(tmp_path) - found == pytest.approx(50000 / os.sysconf("SC_CLK_TCK"), abs=2)
    assert threads.time_of_others(tmp_path / "nowhere") is None


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="only Linux tells who computes")
def test_real_programs_are_seen(monkeypatch):
    monkeypatch.setattr(threads.CoreShare, "PERIOD", 0.5)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(threads.allowed_cores())]
    try:
        share = threads.CoreShare(threads.allowed_cores())
        for _ in range(100):
            time.sleep(0.3)
            share.look()
            if share.threads == 1:
                break
        assert share.threads == 1
    finally:
        for process in busy:
            process.kill()
            process.wait()
