"""Runs of wandb as they lie on disk offline, read back."""

import json
import re
import struct
import time
from pathlib import Path
from typing import Any


def wandb_records(path: Path) -> list:
    """The protobuf records of an offline run that has ended; wandb's own process may still be writing the last ones."""
    deadline = time.monotonic() + 60
    while not (records := _records(path)) or not records[-1].HasField("exit"):
        assert time.monotonic() < deadline, f"{path} has no end"
        time.sleep(0.05)
    return records


def _records(path: Path) -> list:
    """Those that are there: a LevelDB log of 32 KiB blocks behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, records, pending = path.read_bytes(), 7, [], b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        pending += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(pending)
            records.append(record)
            pending = b""
    return records


def wandb_run(folder: Path) -> dict:
    (path,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    records = wandb_records(path)
    runs = [record.run for record in records if record.HasField("run")]
    keys = {(item.key or item.nested_key[0]) for r in records for item in r.history.item}
    summary = {(item.key or item.nested_key[0]): item.value_json for r in records for item in r.summary.update}
    exits = [record.exit.exit_code for record in records if record.HasField("exit")]
    return {"run": runs[0], "tags": set(runs[-1].tags), "history": keys, "summary": summary, "exits": exits}


def wandb_tables(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The tables of the run below a folder, by their keys; a row is its cells by column."""
    found = {}
    for path in folder.glob("wandb/offline-run-*/files/media/table/**/*.table.json"):
        inside = path.as_posix().partition("/media/table/")[2]
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
        found[re.sub(r"_\d+_[0-9a-f]+\.table\.json$", "", inside)] = rows
    return found


def wandb_artifacts(folder: Path, kind: str) -> dict[str, tuple[dict, dict[str, str]]]:
    """The artifacts of a kind, by name: what is told of each, and where its files are copied from."""
    (path,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    artifacts = [record.artifact for record in wandb_records(path) if record.HasField("artifact")]
    return {
        one.name: (json.loads(one.metadata), {entry.path: entry.local_path for entry in one.manifest.contents})
        for one in artifacts
        if one.type == kind
    }
