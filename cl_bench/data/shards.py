"""Shards of the file of decoded images: their limits, decoding in threads, and the journal of those on disk."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from cl_bench.data.dataset import starts_of
from cl_bench.data.pictures import THREADS, Pixels
from cl_bench.data.source import Listing

SHARD = 64 << 20
"""Bytes that are decoded, flushed and entered in the journal together, the most that is lost in a kill."""
CHUNK = 4 << 20


class Shard(NamedTuple):
    """A range of images, ``first`` to ``last`` (exclusive), at the bytes ``start`` to ``end``."""

    first: int
    last: int
    start: int
    end: int


class Entry(NamedTuple):
    """Result of decoding a shard: its CRC-32 and, by the image's index, the reasons why images are broken."""

    crc32: int
    broken: dict[str, str]


Entries = dict[Shard, Entry]
Piece = tuple[Pixels, dict[str, str]]


def into_shards(sizes: Tensor) -> list[Shard]:
    """Divide images of those (N, 2) sizes into shards of whole images, each as many as reach ``SHARD`` bytes."""
    starts = starts_of(sizes).tolist()
    starts.append(starts[-1] + 3 * int(sizes[-1].prod()))
    shards, first = [], 0
    for i in range(1, len(starts)):
        if starts[i] - starts[first] >= SHARD or i == len(starts) - 1:
            shards.append(Shard(first, i, starts[first], starts[i]))
            first = i
    return shards


def decode(listing: Listing, shards: Sequence[Shard]) -> Iterator[tuple[Shard, list[Future[Piece]]]]:
    """Yield each shard with its pieces, in order; the next shard is decoded while one is being written."""
    pool = ThreadPoolExecutor(THREADS)

    def submit(shard: Shard) -> tuple[Shard, list[Future[Piece]]]:
        spans = [(i, min(i + listing.step, shard.last)) for i in range(shard.first, shard.last, listing.step)]
        return shard, [pool.submit(_piece, listing, *span) for span in spans]

    try:
        ahead = submit(shards[0]) if shards else None
        for following in (*shards[1:], None):
            here, ahead = ahead, submit(following) if following else None
            if here:
                yield here
    finally:
        pool.shutdown(cancel_futures=True)


def _piece(listing: Listing, first: int, last: int) -> Piece:
    """Decode some images; broken ones become zeros, with the reason.

    Raises:
        OSError: If the machine fails, not the image.
    """
    wanted = 3 * int(listing.sizes[first:last].prod(1).sum())
    try:
        pixels = listing.read(first, last)
        if pixels.size != wanted:
            raise ValueError(f"{pixels.size:,} bytes of pixels, expected {wanted:,}")
        return pixels, {}
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many kinds of errors for damaged files
        system = error.strerror if isinstance(error, OSError) else None
        if system and not isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        why = " ".join((system or str(error) or type(error).__name__).split())
        return np.zeros(wanted, np.uint8), {str(i): why for i in range(first, last)}


def checksum(descriptor: int, shard: Shard) -> int:
    """Compute the CRC-32 of a shard's bytes in a file, or of fewer bytes if the file is short."""
    crc = 0
    for at in range(shard.start, shard.end, CHUNK):
        crc = zlib.crc32(os.pread(descriptor, min(CHUNK, shard.end - at), at), crc)
    return crc


def line(shard: Shard, entry: Entry) -> bytes:
    """Return a shard's line for the journal; the newline comes first, because the last line may be incomplete."""
    text = json.dumps([*shard, *entry]).encode()
    return b"\n%08x %s" % (zlib.crc32(text), text)


def read_journal(path: Path) -> Entries:
    """Read the entries of a journal; incomplete and damaged lines are ignored."""
    rows = []
    with suppress(FileNotFoundError):
        for found in path.read_bytes().split(b"\n"):
            digest, _, text = found.partition(b" ")
            if text and digest == b"%08x" % zlib.crc32(text):
                rows.append(json.loads(text))
    return entries(rows)


def entries(rows: Sequence[Any]) -> Entries:
    """Make entries from the rows of a journal or manifest; the later of two rows for one shard counts."""
    return {Shard(*row[:4]): Entry(*row[4:]) for row in rows}
