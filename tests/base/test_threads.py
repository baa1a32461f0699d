"""The number of threads follows the cores of the process, and the user's own settings take precedence."""

import os
import subprocess
import sys

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
