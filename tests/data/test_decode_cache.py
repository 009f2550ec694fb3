"""The cache of decoded rows: what was half written is not there, and no trouble with the disk ends a job."""

import logging
import os
import pickle
import shutil
import signal
import zlib

import numpy as np
import pytest

from lowrank_exp.data import decode_cache
from lowrank_exp.data.decode_cache import DecodeCache

ROW = 50


def row_of(number):
    return np.random.default_rng(number).integers(0, 256, ROW, dtype=np.uint8)


def test_rows_come_back_and_missing_ones_are_none(tmp_path):
    cache = DecodeCache(tmp_path / "folder" / "a.rows", ROW)
    assert cache.read(0) is None
    assert not (tmp_path / "folder").exists()
    for number in (7, 2):
        cache.write(number, row_of(number))
    for reader in (cache, DecodeCache(cache.path, ROW), pickle.loads(pickle.dumps(cache))):
        np.testing.assert_array_equal(reader.read(2), row_of(2))
        np.testing.assert_array_equal(reader.read(7), row_of(7))
        assert [reader.read(number) for number in (0, 3, 6, 8, 1000)] == [None] * 5
    assert cache.path.stat().st_size == 8 * (ROW + 4)


def test_a_record_is_the_row_and_its_crc(tmp_path):
    cache = DecodeCache(tmp_path / "a.rows", ROW)
    cache.write(1, row_of(1))
    record = cache.path.read_bytes()[ROW + 4 :]
    assert record[:ROW] == row_of(1).tobytes()
    assert int.from_bytes(record[ROW:], "little") == zlib.crc32(row_of(1))


def test_a_row_whose_sum_is_zero_is_told_from_an_empty_record(tmp_path, monkeypatch):
    monkeypatch.setattr(decode_cache.zlib, "crc32", lambda pixels: 0)
    cache = DecodeCache(tmp_path / "a.rows", ROW)
    cache.write(1, np.zeros(ROW, dtype=np.uint8))
    assert cache.read(0) is None
    assert cache.read(1).tolist() == [0] * ROW


@pytest.mark.parametrize("place", [0, ROW - 1, ROW, ROW + 3])
def test_every_damaged_byte_is_noticed(tmp_path, place):
    cache = DecodeCache(tmp_path / "a.rows", ROW)
    for number in (0, 1):
        cache.write(number, row_of(number))
    content = bytearray(cache.path.read_bytes())
    content[ROW + 4 + place] ^= 1
    cache.path.write_bytes(content)
    assert cache.read(1) is None
    np.testing.assert_array_equal(cache.read(0), row_of(0))
    cache.write(1, row_of(1))
    np.testing.assert_array_equal(cache.read(1), row_of(1))


@pytest.mark.parametrize("kept", [1, ROW - 1, ROW, ROW + 3])
def test_a_write_that_was_cut_short_is_noticed(tmp_path, kept):
    cache = DecodeCache(tmp_path / "a.rows", ROW)
    for number in (0, 1):
        cache.write(number, row_of(number))
    cache.path.write_bytes(cache.path.read_bytes()[: ROW + 4 + kept])
    assert cache.read(1) is None
    np.testing.assert_array_equal(cache.read(0), row_of(0))


def test_a_process_killed_while_it_writes(tmp_path):
    size = 200_000
    cache = DecodeCache(tmp_path / "a.rows", size)
    ours, theirs = os.pipe()
    process = os.fork()
    if process == 0:
        for number in range(500):
            cache.write(number, np.full(size, number % 251 + 1, dtype=np.uint8))
            if number == 20:
                os.write(theirs, b"!")
        os._exit(0)
    assert os.read(ours, 1) == b"!"
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    os.close(ours)
    os.close(theirs)
    rows = [cache.read(number) for number in range(501)]
    assert all((row == number % 251 + 1).all() for number, row in enumerate(rows) if row is not None)
    assert all(row is not None for row in rows[:21])
    assert rows[-1] is None


def test_limit_in_bytes(tmp_path):
    cache = DecodeCache(tmp_path / "a.rows", ROW, limit=3 * (ROW + 4) - 1)
    for number in range(5):
        cache.write(number, row_of(number))
    assert [cache.read(number) is not None for number in range(5)] == [True, True, False, False, False]
    assert cache.path.stat().st_size == 2 * (ROW + 4)


def test_a_nearly_full_disk_is_left_alone(tmp_path, monkeypatch, caplog):
    cache = DecodeCache(tmp_path / "a.rows", ROW)
    cache.write(0, row_of(0))
    usage = shutil.disk_usage(tmp_path)._replace(free=decode_cache.RESERVE)
    monkeypatch.setattr(decode_cache.shutil, "disk_usage", lambda folder: usage)
    with caplog.at_level(logging.WARNING):
        cache.write(1, row_of(1))
        cache.write(2, row_of(2))
    assert caplog.text.count("could not be cached") == 1
    assert "less than 1 GiB of the disk is free" in caplog.text
    np.testing.assert_array_equal(cache.read(0), row_of(0))
    assert cache.read(1) is None


@pytest.mark.parametrize("taken", [None, 10])
def test_a_full_disk_is_one_warning(tmp_path, monkeypatch, caplog, taken):
    class Full(decode_cache.FileIO):
        def write(self, content):
            if taken is None:
                raise OSError(28, "No space left on device")
            return super().write(content[:taken])

    cache = DecodeCache(tmp_path / "a.rows", ROW)
    cache.write(0, row_of(0))
    monkeypatch.setattr(decode_cache, "FileIO", Full)
    other = DecodeCache(cache.path, ROW)
    with caplog.at_level(logging.WARNING):
        for number in (1, 2):
            other.write(number, row_of(number))
    assert caplog.text.count("could not be cached") == 1
    assert [other.read(number) is None for number in (0, 1, 2)] == [False, True, True]


def test_a_folder_that_cannot_be_made_is_one_warning(tmp_path, caplog):
    (tmp_path / "file").touch()
    cache = DecodeCache(tmp_path / "file" / "a.rows", ROW)
    with caplog.at_level(logging.WARNING):
        for number in (0, 1):
            assert cache.read(number) is None
            cache.write(number, row_of(number))
    assert caplog.text.count("could not be cached") == 1


def test_a_file_that_may_only_be_read_is_read(tmp_path, monkeypatch, caplog):
    cache = DecodeCache(tmp_path / "a.rows", ROW)
    cache.write(0, row_of(0))

    def refused(path, flags, mode=0):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(decode_cache.os, "open", refused)
    other = DecodeCache(cache.path, ROW)
    with caplog.at_level(logging.WARNING):
        other.write(1, row_of(1))
        np.testing.assert_array_equal(other.read(0), row_of(0))
    assert caplog.text.count("Permission denied") == 1
    assert other.read(1) is None
