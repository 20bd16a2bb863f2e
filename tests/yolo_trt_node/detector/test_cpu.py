"""Cores are those that affinity and quotas allow; threads spin only where cores are free for them."""

import os

import pytest
from yolo_trt_node.detector import cpu
from yolo_trt_node.detector.cpu import CpuSample, may_spin, others_cores, threads_for, usable_cores


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A machine of four cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3})
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    return tmp_path


def put(root, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_a_quota_every_core_counts(root):
    assert usable_cores(root) == 4
    put(root, "sys/fs/cgroup/cpu.max", "max 100000\n")
    assert (usable_cores(root), threads_for(0, root), threads_for(3, root)) == (4, 4, 3)


@pytest.mark.parametrize(
    ("quota", "cores", "threads"), [(150_000, 1.5, 1), (800_000, 4, 4), (20_000, 0.2, 1)]
)
def test_a_containers_quota_counts(root, quota, cores, threads):
    put(root, "sys/fs/cgroup/cpu.max", f"{quota} 100000\n")
    assert (usable_cores(root), threads_for(0, root)) == (cores, threads)


def test_the_least_quota_of_all_groups_above_counts(root):
    put(root, "proc/self/cgroup", "0::/system.slice/detector.service\n")
    put(root, "sys/fs/cgroup/system.slice/cpu.max", "200000 100000\n")
    put(root, "sys/fs/cgroup/system.slice/detector.service/cpu.max", "300000 100000\n")
    assert usable_cores(root) == 2


def test_quotas_of_cgroups_version_1_count(root):
    put(root, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    put(root, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert usable_cores(root) == 4
    put(root, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "250000\n")
    assert usable_cores(root) == 2.5


def test_only_time_of_others_on_our_own_cores_counts(root, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    idle = "cpu 9 9 9 9\ncpu0 0 0 0 500 0 0 0 0 0 0\ncpu1 0 0 0 500 0 0 0 0 0 0\ncpu2 0 0 0 0 0 0 0 0 0 0\n"
    put(root, "proc/stat", idle)
    before = cpu.sample(root)
    put(root, "proc/stat", idle.replace("cpu1 0 0", "cpu1 200 50").replace("cpu2 0", "cpu2 9999"))
    after = cpu.sample(root)
    ticks = os.sysconf("SC_CLK_TCK")
    assert after.all_s - before.all_s == pytest.approx(250 / ticks)
    assert cpu.sample(root / "nowhere") is None


def test_own_time_is_no_load_of_others():
    assert others_cores(CpuSample(0, 100, 10), CpuSample(10, 115, 20)) == pytest.approx(0.5)
    assert others_cores(CpuSample(0, 100, 10), CpuSample(10, 105, 20)) == 0
    assert others_cores(CpuSample(5, 100, 10), CpuSample(5, 105, 10)) == 0


@pytest.mark.parametrize(
    ("threads", "cores", "others", "spinning", "spin"),
    [
        (2, 2, 0.1, False, True),  # idle
        (2, 2, 1.0, False, False),  # beside a busy core
        (2, 2, 1.0, True, False),
        (2, 4, 1.0, False, True),  # there are others
        (2, 2, 0.5, True, True),  # a close call changes nothing
        (2, 2, 0.5, False, False),
        (4, 1.5, 0.0, True, False),  # a quota would be burnt
    ],
)
def test_threads_spin_where_cores_are_free_for_them(threads, cores, others, spinning, spin):
    assert may_spin(threads, cores, others, spinning) is spin


class TestFollowing:
    @pytest.fixture
    def follower(self, monkeypatch):
        module = pytest.importorskip("yolo_trt_node.detector.backends.onnx_runtime")
        self.load = 0.0
        monkeypatch.setattr(module, "_AT_IMPORT", CpuSample(0, 0, 0))
        monkeypatch.setattr(module, "_FOLLOW_PERIOD_S", 0.0)
        monkeypatch.setattr(module.cpu, "sample", lambda: CpuSample(0, 0, 0))
        monkeypatch.setattr(module.cpu, "usable_cores", lambda: 2.0)
        monkeypatch.setattr(module.cpu, "others_cores", lambda before, after: self.load)
        return module._Follower(2)

    def settle(self, follower, session):
        for _ in range(2):
            session = follower.follow(session)
            if follower._maker is not None:
                follower._maker.join()
        return session

    def test_a_session_is_replaced_when_the_load_changes_and_only_then(self, follower):
        made = []
        follower.make = lambda spinning: made.append(spinning) or f"session {len(made)}"
        assert follower.spinning == "run"
        session = self.settle(follower, "first")
        assert (session, made) == ("first", [])

        self.load = 1.0
        session = self.settle(follower, session)
        assert (session, made, follower.spinning) == ("session 1", ["never"], "never")

        self.load = 0.0
        session = self.settle(follower, session)
        assert (session, made, follower.spinning) == ("session 2", ["never", "run"], "run")
        assert "2 cores, 0.0 of them busy" in follower.reason

    def test_a_session_that_cannot_be_made_leaves_the_one_in_use(self, follower):
        def fail(spinning):
            raise RuntimeError("no memory")

        follower.make = fail
        self.load = 1.0
        assert self.settle(follower, "first") == "first"
        assert follower.spinning == "run"
