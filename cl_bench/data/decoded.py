"""Images decoded once, in a file that is mapped into memory: ``images.bin``, each row by row and pixel by pixel.

Its folder also holds ``journal``, with a line for each shard that is decoded and on disk, so that an interrupted
decoding continues; ``annotations.safetensors``; and ``manifest.json``, which exists once everything is complete and has
the shards' CRC-32.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from cl_bench.data.dataset import Dataset, Ragged, starts_of
from cl_bench.data.pictures import THREADS
from cl_bench.data.shards import (
    Entries,
    Entry,
    Piece,
    Shard,
    checksum,
    decode,
    entries,
    into_shards,
    line,
    read_journal,
)
from cl_bench.data.source import Listing
from cl_bench.errors import DataError, DataWarning, listed
from cl_bench.store import StoreWarning, locked, sealed, set_aside, unsealed, write_atomically

Progress = Callable[[str, int, int], None]
NAMED = 3
FIELDS = ("bytes", "mtime_ns", "shards", "left_out", "dropped_boxes", "classes", "annotations")


class DecodedImages:
    """Decoded images of a data set, in a directory of their own."""

    def __init__(self, path: Path, what: str, progress: Progress | None = None) -> None:
        self.path, self.what = path, what
        self.images, self._journal = path / "images.bin", path / "journal"
        self._progress = progress or (lambda what, done, total: None)

    def open(self, listing: Callable[[], Listing], leave_out: bool, verify: bool = False) -> Dataset:
        """Open the data set; missing and damaged images are decoded first.

        Args:
            listing: Function that returns the listing; it is called only if something has to be decoded.
            leave_out: Leave out images that cannot be decoded, with a warning.
            verify: Check every byte. Otherwise that is done only if the file was modified.

        Raises:
            DataError: If images cannot be decoded, or the disk is full.
        """
        try:
            data = None if verify else self._read(leave_out)
            if data is None:
                with locked(self.path, wait=True):
                    # Another process may have finished meanwhile.
                    data = None if verify else self._read(leave_out)
                    if data is None:
                        data = self._data(*self._mend(listing, leave_out))
        except OSError as error:
            place = error.filename or self.path
            raise DataError(f"{self.what}: {place}: {error.strerror or error}; what is decoded is kept") from None
        return data

    def _read(self, leave_out: bool) -> Dataset | None:
        """Read the data set; None if anything about it is in doubt."""
        manifest = self._manifest()
        if manifest is None or (manifest["left_out"] and not leave_out) or not self._untouched(manifest):
            return None
        annotations = self._annotations(manifest)
        return None if annotations is None else self._data(manifest, annotations)

    def _data(self, manifest: Mapping[str, Any], annotations: bytes) -> Dataset:
        kept = load(annotations)
        if left_out := manifest["left_out"]:
            total = len(kept["sizes"]) + len(left_out)
            warnings.warn(f"{self.what}: left out {_some(left_out, total)}", DataWarning, stacklevel=4)
        if dropped := manifest["dropped_boxes"]:
            boxes = f"{dropped:,} box{'es' if dropped > 1 else ''}"
            why = "without area inside their images: beyond the edge, reversed, or not numbers"
            warnings.warn(f"{self.what}: left out {boxes} {why}", DataWarning, stacklevel=4)
        with warnings.catch_warnings():
            # torch warns that the map must not be written. A private map could be written, but the system reserves
            # memory for it, and would refuse a map that is larger than the machine's memory.
            warnings.filterwarnings("ignore", message=".*not writable.*")
            pixels = torch.from_numpy(np.memmap(self.images, np.uint8, "r"))
        images = Ragged(pixels, kept["sizes"], kept["starts"])

        def each(name: str) -> tuple[Tensor, ...] | None:
            return torch.split(kept[name], kept["counts"].tolist()) if name in kept else None

        found = {name: each(name) for name in ("boxes", "box_labels", "difficult")}
        return Dataset(images, tuple(manifest["classes"]), labels=kept.get("labels"), **found)

    def _mend(self, listing: Callable[[], Listing], leave_out: bool) -> tuple[dict[str, Any], bytes]:
        """Verify what is decoded and decode the rest; the caller holds the lock."""
        manifest = self._manifest()
        if manifest is None and (self.path / "manifest.json").exists():
            self._set_aside("manifest.json", "not a whole record")
        known = entries(manifest["shards"]) if manifest else read_journal(self._journal)
        before = self.images.stat() if self.images.exists() else None
        good = self._intact(known)
        if wrong := len(known) - len(good):
            why = f"{wrong} of {len(known)} shards are not what was written there; decoded again"
            warnings.warn(f"{self.images}: {why}", StoreWarning, stacklevel=4)
        annotations = self._annotations(manifest) if manifest else None
        if manifest and annotations is None and (self.path / "annotations.safetensors").exists():
            self._set_aside("annotations.safetensors", "hash is off")
        if (
            manifest is None
            or annotations is None
            or before is None
            or wrong
            or before.st_size != manifest["bytes"]
            or (manifest["left_out"] and not leave_out)
        ):
            manifest, annotations = self._decode(listing(), good, leave_out)
            before = self.images.stat()
        manifest["mtime_ns"] = before.st_mtime_ns
        write_atomically(self.path / "manifest.json", sealed(manifest))
        return manifest, annotations

    def _decode(self, listing: Listing, good: Entries, leave_out: bool) -> tuple[dict[str, Any], bytes]:
        """Decode the shards that are not good, or that lack an image which may be readable now."""
        shards, total = into_shards(listing.sizes), len(listing.names)
        done = {s: good[s] for s in shards if s in good and (leave_out or not good[s].broken)}
        todo = [s for s in shards if s not in done]
        self._allocate(shards[-1].end)
        with self.images.open("r+b") as file, self._journal.open("ab") as journal:
            for shard, pieces in decode(listing, todo):
                done[shard] = self._write(file, shard, pieces, total)
                journal.write(line(shard, done[shard]))
                journal.flush()
                os.fsync(journal.fileno())
        broken = {int(i): why for entry in done.values() for i, why in entry.broken.items()}
        left_out = {listing.names[i]: broken[i] for i in sorted(broken)}
        if len(broken) == total or (broken and not leave_out):
            remedy = 'put them right, or do without them: broken = "leave_out" in the profile\'s table of this data'
            raise DataError(f"{self.what}: cannot use {_some(left_out, total)}; {remedy}")
        annotations = _annotations_of(listing, broken)
        write_atomically(self.path / "annotations.safetensors", annotations)
        manifest = {
            "bytes": shards[-1].end,
            "shards": [[*shard, *done[shard]] for shard in shards],
            "left_out": left_out,
            "dropped_boxes": listing.boxes.dropped if listing.boxes else 0,
            "classes": listing.classes,
            "annotations": hashlib.sha256(annotations).hexdigest(),
        }
        return manifest, annotations

    def _write(self, file: BinaryIO, shard: Shard, pieces: Sequence[Future[Piece]], total: int) -> Entry:
        """Write a shard to disk, without a map, since on a full disk that would end in a signal, not in an error."""
        file.seek(shard.start)
        crc, done = 0, shard.first
        broken: dict[str, str] = {}
        for piece in pieces:
            pixels, wrong = piece.result()
            file.write(pixels.data)
            crc, broken = zlib.crc32(pixels.data, crc), broken | wrong
            done += -(-(shard.last - shard.first) // len(pieces))
            self._progress(self.what, min(done, shard.last), total)
        file.flush()
        os.fsync(file.fileno())
        return Entry(crc, broken)

    def _allocate(self, total: int) -> None:
        """Allocate all the space that is needed, so that a disk that is too small is found before any decoding.

        Raises:
            DataError: If there is not enough space.
        """
        with self.images.open("ab") as file:
            held = os.fstat(file.fileno()).st_blocks * 512
            free = shutil.disk_usage(self.path).free
            lacking = f"{self.what}: needs {total / 1e9:.3g} GB, has {(free + held) / 1e9:.3g} GB at {self.path}"
            if total > free + held:
                raise DataError(lacking)
            file.truncate(total)
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, total)
            except OSError as error:  # if the file system cannot allocate, a full disk shows while writing
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise DataError(f"{lacking} ({error.strerror})") from None

    def _intact(self, known: Entries) -> Entries:
        """Return the shards whose bytes still have the recorded checksum."""
        if not known or not self.images.exists():
            return {}
        good: Entries = {}
        with self.images.open("rb") as file, ThreadPoolExecutor(THREADS) as pool:
            total = max(shard.last for shard in known)
            for shard, found in zip(known, pool.map(partial(checksum, file.fileno()), known), strict=True):
                if found == known[shard].crc32:
                    good[shard] = known[shard]
                self._progress(f"{self.what}, verified", shard.last, total)
        return good

    def _manifest(self) -> dict[str, Any] | None:
        with suppress(FileNotFoundError, IsADirectoryError):
            return unsealed((self.path / "manifest.json").read_bytes(), FIELDS)
        return None

    def _untouched(self, manifest: Mapping[str, Any]) -> bool:
        with suppress(FileNotFoundError):
            state = self.images.stat()
            return (state.st_size, state.st_mtime_ns) == (manifest["bytes"], manifest["mtime_ns"])
        return False

    def _annotations(self, manifest: Mapping[str, Any]) -> bytes | None:
        with suppress(FileNotFoundError, IsADirectoryError):
            content = (self.path / "annotations.safetensors").read_bytes()
            return content if hashlib.sha256(content).hexdigest() == manifest["annotations"] else None
        return None

    def _set_aside(self, name: str, why: str) -> None:
        set_aside(self.path / name, self.path.parent, self.path.parent / "set_aside", why)


def _annotations_of(listing: Listing, broken: Mapping[int, str]) -> bytes:
    """Return everything but the pixels, for the images that are not broken."""
    N = len(listing.names)
    kept = torch.ones(N, dtype=torch.bool)
    kept[list(broken)] = False
    tensors = {"sizes": listing.sizes[kept], "starts": starts_of(listing.sizes)[kept]}
    if listing.labels is not None:
        tensors["labels"] = listing.labels[kept]
    if (boxes := listing.boxes) is not None:
        mine = kept[boxes.owner]
        tensors["counts"] = boxes.owner.bincount(minlength=N)[kept]
        tensors |= {"boxes": boxes.corners[mine], "box_labels": boxes.labels[mine]}
        if boxes.difficult is not None:
            tensors["difficult"] = boxes.difficult[mine]
    return save(tensors)


def _some(broken: Mapping[str, str], total: int) -> str:
    """Return the number of broken images, and the first of them by name, as text."""
    named = listed((f"{name} ({why})" for name, why in broken.items()), NAMED)
    return f"{len(broken):,} of {total:,} images: {named}"
