import os

import pytest

from lowrank_exp.files import shared_folder
from lowrank_exp.files.shared_folder import is_shared, kind_of, try_folder

MOUNTS = r"""
22 1 254:1 / / rw - ext4 /dev/vda rw
40 22 0:30 / /data rw - nfs4 server:/data rw
41 40 0:31 / /data/my\040own rw shared:1 - tmpfs tmpfs rw
42 22 0:32 / /scratch rw - lustre server:/scratch rw
43 22 0:33 / /strange rw - fuse.unheard none rw
"""


@pytest.fixture
def mounts(tmp_path, monkeypatch):
    (tmp_path / "mountinfo").write_text(MOUNTS.lstrip())
    monkeypatch.setattr(shared_folder, "MOUNTS", tmp_path / "mountinfo")
    kind_of.cache_clear()
    yield
    kind_of.cache_clear()


def test_a_folder_is_shared_by_the_kind_of_its_file_system(mounts):
    kinds = {"/home/a": "ext4", "/data": "nfs4", "/database": "ext4", "/data/a/b": "nfs4", "/data/my own/a": "tmpfs"}
    kinds |= {"/scratch/a": "lustre", "/strange": "fuse.unheard"}
    assert {path: kind_of(path) for path in kinds} == kinds
    kind_of.cache_clear()
    shared = [path for path in kinds if is_shared(shared_folder.Path(path))]
    assert shared == ["/data", "/data/a/b", "/scratch/a", "/strange"]


def test_a_folder_is_its_hosts_own_where_the_system_does_not_tell(tmp_path, monkeypatch):
    kind_of.cache_clear()
    monkeypatch.setattr(shared_folder, "MOUNTS", tmp_path / "none")
    assert not is_shared(tmp_path)
    kind_of.cache_clear()


def test_what_a_folder_allows_is_tried_in_it(tmp_path, monkeypatch):
    found = try_folder(tmp_path)
    assert (found.exclusive, found.links, found.folders, found.locks) == (True, True, True, True)
    assert abs(found.ahead) < 2
    assert str(found) == f"{found.kind} file system, leases exclude"
    assert list(tmp_path.iterdir()) == []

    def refuse(*_):
        raise PermissionError(1, "refused")

    opened, utime = os.open, os.utime
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "open", lambda path, flags, *rest: opened(path, flags & ~os.O_EXCL, *rest))
    monkeypatch.setattr(shared_folder.fcntl, "flock", lambda *_: None)
    monkeypatch.setattr(os, "utime", lambda path, _=None: utime(path, (4e9, 4e9)))
    found = try_folder(tmp_path)
    assert (found.exclusive, found.links, found.folders, found.locks) == (False, False, True, False)
    for words in ("nothing excludes", "hard links are refused", "locks do not exclude", "its clock is", "s ahead of"):
        assert words in str(found)
