"""The captcha store: a folder of Parquet parts, one for each ingested batch.

    part-<id>.parquet         name, image, source, sha256: valid images
    quarantine-<id>.parquet   source, name, reason, data: rejected images and the reasons

``<id>`` is derived from the source of the batch, so a batch is in the store if its part exists.
Each file is either complete or missing, and the quarantine is written before the part. A killed
process therefore loses at most the batch that it was adding. The next run adds that batch again.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from simgan_captcha import atomic
from simgan_captcha.data.batch import MAX_QUARANTINED_BYTES, Captcha, RejectedCaptcha
from simgan_captcha.errors import StoreError

_PART = pa.schema(
    [
        ("name", pa.string()),
        ("image", pa.binary()),
        ("source", pa.string()),
        ("sha256", pa.string()),
    ]
)
_QUARANTINE = pa.schema(
    [
        ("source", pa.string()),
        ("name", pa.string()),  # null if the whole batch is rejected
        ("reason", pa.string()),
        ("data", pa.binary()),
    ]
)


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """Counts of the images of a batch; every image is in exactly one of them."""

    stored: int
    duplicates: int
    """Images with the same name and the same bytes as a stored image."""
    quarantined: int

    @property
    def expected(self) -> int:
        """Number of images in the batch."""
        return self.stored + self.duplicates + self.quarantined


@dataclass(frozen=True, slots=True)
class StoredCaptchas:
    """All images of a store, ordered by their SHA-256 and then by name."""

    names: list[str]
    images: list[bytes]


class CaptchaStore:
    """The captcha store of one folder; a missing folder is an empty store until the first `add`.

    Names are not trusted: they are unique in a store and never used as paths. Only one process may
    add at a time (the lock of the run folder ensures this). Any number of processes may read.

    Raises:
        StoreError: A part is damaged, or a file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._counts: dict[Path, BatchCounts] = {}
        self._sha256: dict[str, str] = {}
        self._part: dict[str, Path] = {}
        for path in sorted(folder.glob("part-*.parquet")):
            self._open_part(path)

    def __len__(self) -> int:
        return len(self._sha256)

    def has(self, source: str) -> bool:
        """Whether the batch from ``source`` has been added."""
        return self._part_path(source) in self._counts

    def counts(self, source: str) -> BatchCounts:
        """The counts of the batch from ``source``.

        Raises:
            StoreError: The store has no such batch.
        """
        try:
            return self._counts[self._part_path(source)]
        except KeyError:
            raise StoreError(
                f"the store {self.folder} holds no batch from {source}; run the download again"
            ) from None

    def add(
        self,
        source: str,
        captchas: Sequence[Captcha],
        rejected: Sequence[RejectedCaptcha] = (),
        notes: Mapping[str, int] | None = None,
    ) -> BatchCounts:
        """Add one batch. Adding a source again changes nothing.

        An image whose name and bytes are already in the store is a duplicate and is kept once. An
        image with the name of another stored image goes to the quarantine. If all images of the
        batch go to the quarantine, no part is written and the batch can be tried again.
        ``notes`` are remarks on images with their counts. They are stored with the batch.
        """
        if self.has(source):
            return self.counts(source)
        fresh: dict[str, Captcha] = {}
        digests: dict[str, str] = {}
        duplicates, refused = 0, list(rejected)
        for captcha in captchas:
            digest = hashlib.sha256(captcha.image).hexdigest()
            known = self._sha256.get(captcha.name) or digests.get(captcha.name)
            if known is None:
                fresh[captcha.name], digests[captcha.name] = captcha, digest
            elif known == digest:
                duplicates += 1
            else:
                reason = "expected a unique name, got the name of another image"
                refused.append(RejectedCaptcha(captcha.name, reason, captcha.image))
        counts = BatchCounts(len(fresh), duplicates, len(refused))

        self._write_quarantine(source, [(one.name, one.reason, one.data) for one in refused])
        if counts.quarantined == counts.expected:
            return counts
        path = self._part_path(source)
        columns = [
            list(fresh),
            [captcha.image for captcha in fresh.values()],
            [source] * len(fresh),
            list(digests.values()),
        ]
        tallies = {"duplicates": str(duplicates), "quarantined": str(len(refused))}
        tallies |= {"notes": json.dumps(dict(notes))} if notes else {}
        _write(path, pa.table(columns, schema=_PART.with_metadata(tallies)))
        self._counts[path] = counts
        self._sha256.update(digests)
        self._part.update(dict.fromkeys(fresh, path))
        return counts

    def set_aside(self, source: str, reason: str, data: bytes) -> None:
        """Put the data of an unreadable batch into the quarantine, for people to look at.

        The batch does not count as stored. If it is added later, its quarantine is replaced.
        """
        if not self.has(source):
            self._write_quarantine(source, [(None, reason, data)])

    def reasons(self, sources: Sequence[str] | None = None) -> dict[str, int]:
        """Counts of quarantined images by reason, most frequent first; of some sources or all."""
        found: Counter[str] = Counter()
        paths = sorted(self.folder.glob("quarantine-*.parquet"))
        if sources is not None:
            of_sources = {self._quarantine_path(source) for source in sources}
            paths = [path for path in paths if path in of_sources]
        for path in paths:
            names, reasons = _read(path, _QUARANTINE, ["name", "reason"])
            found.update(
                reason for name, reason in zip(names, reasons, strict=True) if name is not None
            )
        return dict(found.most_common())

    def notes(self, sources: Sequence[str]) -> dict[str, int]:
        """Counts of remarks on the images of these batches, most frequent first."""
        paths = {self._part_path(source) for source in sources if self.has(source)}
        return dict(sum(map(_notes, sorted(paths)), Counter[str]()).most_common())

    def in_content_order(self) -> StoredCaptchas:
        """All captchas, in the order that all training code must use.

        The order depends only on the images, so new names or another order of downloads do not
        change the training.

        Raises:
            StoreError: The store is empty, or a part is damaged.
        """
        if not len(self):
            raise StoreError(
                f"expected captchas in {self.folder}, got none; run the download first"
            )
        rows: list[tuple[str, str, bytes]] = []
        for path in self._counts:
            digests, names, images = _read(path, _PART, ["sha256", "name", "image"])
            for digest, name, image in zip(digests, names, images, strict=True):
                if hashlib.sha256(image).hexdigest() != digest:
                    raise _damaged(path, "an image does not match its sha256")
                rows.append((digest, name, image))
        rows.sort()
        return StoredCaptchas([name for _, name, _ in rows], [image for _, _, image in rows])

    def digests(self) -> set[str]:
        """SHA-256 (hex) of all images."""
        return set(self._sha256.values())

    def content_hash(self) -> str:
        """SHA-256 (hex) of the sorted SHA-256 of all images, which ignores names and order."""
        return hashlib.sha256("\n".join(sorted(self._sha256.values())).encode()).hexdigest()

    def image(self, name: str) -> bytes:
        """The encoded bytes of one image, exactly as received.

        Raises:
            StoreError: No image has that name, or its part is damaged.
        """
        if name not in self._part:
            raise StoreError(
                f"expected the name of one of the {len(self)} captchas in {self.folder}, "
                f"got {name!r}; look up the name in the readings"
            )
        names, images = _read(self._part[name], _PART, ["name", "image"])
        image: bytes = images[names.index(name)]
        return image

    def discard_partial_files(self) -> None:
        """Remove partial files of killed processes; only the adding process may call this.

        Other processes ignore partial files. They must not remove them, because the adding process
        may still be writing one.
        """
        for partial in self.folder.glob(".*.parquet.*.part"):
            _remove(partial)

    def _open_part(self, path: Path) -> None:
        names, digests, tallies = _read(path, _PART, ["name", "sha256"], with_tallies=True)
        for name, digest in zip(names, digests, strict=True):
            if name in self._sha256:
                raise _damaged(path, f"it repeats the name {name!r}")
            self._sha256[name], self._part[name] = digest, path
        self._counts[path] = BatchCounts(len(names), *tallies)

    def _part_path(self, source: str) -> Path:
        return self.folder / f"part-{_batch_id(source)}.parquet"

    def _quarantine_path(self, source: str) -> Path:
        return self.folder / f"quarantine-{_batch_id(source)}.parquet"

    def _write_quarantine(self, source: str, rows: list[tuple[str | None, str, bytes]]) -> None:
        path = self._quarantine_path(source)
        if not rows:
            _remove(path)  # left by an earlier attempt at this batch
            return
        columns = [
            [source] * len(rows),
            [name for name, _, _ in rows],
            [reason for _, reason, _ in rows],
            [data[:MAX_QUARANTINED_BYTES] for _, _, data in rows],
        ]
        _write(path, pa.table(columns, schema=_QUARANTINE))


def read_stored(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of all images of a store, part by part; empty if it is not a store.

    Raises:
        StoreError: A part is damaged.
    """
    for path in sorted(folder.glob("part-*.parquet")):
        yield from zip(*_read(path, _PART, ["name", "image"]), strict=True)


def _notes(path: Path) -> Counter[str]:
    try:
        return Counter(json.loads(pq.read_schema(path).metadata.get(b"notes", b"{}")))
    except (OSError, ValueError, TypeError, AttributeError, pa.ArrowException) as error:
        raise _damaged(path, str(error)) from None


def _batch_id(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def _write(path: Path, table: Any) -> None:
    buffer = io.BytesIO()
    # Statistics would repeat whole images in the footer, as minimum and maximum.
    pq.write_table(
        table,
        buffer,
        use_dictionary=["source"],
        write_statistics=False,
        write_page_checksum=True,
    )
    try:
        atomic.write_bytes(path, buffer.getvalue())
    except OSError as error:
        raise _refused(path, error) from None


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _refused(path, error) from None


def _refused(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"expected to write {path}, the disk refused ({error}); free space or correct the folder, "
        "then run again: stored batches are kept"
    )


def _read(path: Path, schema: Any, columns: list[str], *, with_tallies: bool = False) -> list[Any]:
    """The named columns as lists; with tallies, also the batch's [duplicates, quarantined]."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if not file.schema_arrow.equals(schema):
                raise _damaged(path, f"expected the columns {', '.join(schema.names)}")
            table = file.read(columns=columns)
            values: list[Any] = [table[column].to_pylist() for column in columns]
            if with_tallies:
                metadata = file.schema_arrow.metadata
                values.append([int(metadata[key]) for key in (b"duplicates", b"quarantined")])
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise _damaged(path, str(error)) from None
    return values


def _damaged(path: Path, what: str) -> StoreError:
    return StoreError(
        f"expected a complete Parquet file of captchas, {path} is damaged ({what}); "
        "delete that file and run again: its batch will be fetched again"
    )
