# cython: language_level=3
"""The private part of a stored block: where its salts come from, and what stands bare in it.

As written it is one seed, from which all salts follow. When an account is erased, the seed has to
go, because it gives every salt: what is left then are the surviving salts one by one, and the bare
hashes of what was erased. docs/storage.md has the bytes.
"""

from typing import NamedTuple

import numpy as np

from ledger import _merkle, layout

SALTS_SIZE = 32
EXT_SALT_SIZE = 32
SIDE_SALT_SIZE = 16


class EntryPrivate(NamedTuple):
    """What the private part has of one entry; None where there is nothing.

    A salt that was erased is None, and then the bare hash it went into is given: a side's S, the
    ext, or the leaf T of an entry of which nothing else is left.
    """

    debit_salt: bytes | None
    credit_salt: bytes | None
    ext_salt: bytes | None
    debit: bytes | None
    credit: bytes | None
    ext: bytes | None
    leaf: bytes | None


class Private:
    """Salts and bare hashes of the entries of one block.

    ``erased`` is False for the form with a seed, which is then 32 bytes. Else ``seed`` is None,
    ``salts`` an (n, 32) u1 array (debit or own 16, credit 16; zeros where there is none),
    ``metadata_indexes`` the ascending indexes of the entries with metadata, ``ext_salts`` their
    (m, 32) salts, and ``bare`` BARE records in order of index and part, at least one. Raises
    ValueError for parts that do not fit together.
    """

    __slots__ = ("bare", "entry_count", "ext_salts", "metadata_indexes", "salts", "seed")

    def __init__(self, entry_count, *, seed=None, salts=None, metadata_indexes=(), ext_salts=None,
                 bare=None):
        self.entry_count = entry_count
        self.seed = seed
        self.metadata_indexes = np.asarray(metadata_indexes, "<u4")
        if seed is not None:
            if len(seed) != 32:
                raise ValueError(f"a block's seed has 32 bytes, not {len(seed)}")
            self.salts = self.ext_salts = self.bare = None
            return
        metadata_count = len(self.metadata_indexes)
        self.salts = np.ascontiguousarray(salts, np.uint8)
        self.ext_salts = np.ascontiguousarray(ext_salts, np.uint8).reshape(-1, EXT_SALT_SIZE)
        self.bare = np.ascontiguousarray(bare, layout.BARE)
        if self.salts.shape != (entry_count, SALTS_SIZE) or len(self.ext_salts) != metadata_count:
            raise ValueError("the salts are not those of the entries")
        order = self.bare["index"].astype(np.int64) << 8 | self.bare["part"]
        parts = self.bare["part"]
        if (
            len(order) == 0 or np.any(np.diff(order) <= 0)
            or int(self.bare["index"].max()) >= entry_count
            or not np.all((parts >= 1) & (parts <= len(layout.BARE_PARTS)))
        ):
            raise ValueError("the bare hashes are not in order, or not of these entries")

    @property
    def erased(self):
        """Whether something was erased, so that there is no seed."""
        return self.seed is None

    def explicit(self):
        """Return (salts, ext_salts, bare) as writable copies of the form without a seed; ``bare``
        may be empty."""
        if self.seed is None:
            return self.salts.copy(), self.ext_salts.copy(), self.bare.copy()
        whole = _merkle.block_salts(self.seed, self.entry_count)
        ext = whole[self.metadata_indexes.astype(np.int64), 32:]
        return whole[:, :32].copy(), ext.copy(), np.zeros(0, layout.BARE)

    def part(self, start, stop):
        """Return a Private of the entries ``start`` to ``stop`` as if there were no others, in the
        form without a seed; ``bare`` may be empty. It is for hashing, not for storing."""
        part = Private.__new__(Private)
        part.entry_count = stop - start
        part.seed = None
        first, past = np.searchsorted(self.metadata_indexes, [start, stop])
        indexes = self.metadata_indexes[first:past] - np.uint32(start)
        part.metadata_indexes = indexes
        if self.seed is not None:
            salts = _merkle.block_salts(self.seed, stop - start, start)
            part.salts = np.ascontiguousarray(salts[:, :32])
            part.ext_salts = salts[indexes.astype(np.int64), 32:]
            part.bare = np.zeros(0, layout.BARE)
            return part
        part.salts = self.salts[start:stop]
        part.ext_salts = self.ext_salts[first:past]
        first, past = np.searchsorted(self.bare["index"], [start, stop])
        part.bare = self.bare[first:past].copy()
        part.bare["index"] -= np.uint32(start)
        return part

    def side_salts(self, index):
        """Return the 32 bytes of entry ``index``: debit (or own) salt 16, credit (an opening's
        state) salt 16; zeros where one was erased."""
        if self.seed is not None:
            return _merkle.xof(self.seed, index)[:32]
        return self.salts[index].tobytes()

    def ext_salt(self, index):
        """Return the 32-byte salt of entry ``index``'s metadata; KeyError when it has none."""
        if self.seed is not None:
            return _merkle.xof(self.seed, index)[32:]
        place = int(np.searchsorted(self.metadata_indexes, index))
        if place == len(self.metadata_indexes) or self.metadata_indexes[place] != index:
            raise KeyError(f"entry {index} has no metadata")
        return self.ext_salts[place].tobytes()

    def ext(self, index, metadata):
        """Return the digest of entry ``index``'s metadata, given in canonical form."""
        return _merkle.keyed_hash(_merkle.KEYS["ext"], self.ext_salt(index) + bytes(metadata))

    def ext_digests(self, metadata):
        """Return the (n, 32) ext digests of all entries, zeros for none, or None when no entry has
        one; ``metadata`` are the canonical objects in order of their entries."""
        bare = [] if self.bare is None else self.bare[self.bare["part"] == _BARE_EXT]
        if len(metadata) == 0 and len(bare) == 0:
            return None
        digests = np.zeros((self.entry_count, 32), np.uint8)
        for index, data in zip(self.metadata_indexes, metadata, strict=True):
            digests[index] = np.frombuffer(self.ext(int(index), data), np.uint8)
        for record in bare:
            digests[record["index"]] = record["digest"]
        return digests

    def bare_of(self, index):
        """Return {part: digest} of entry ``index``: what stands bare of it."""
        if self.bare is None:
            return {}
        first, past = np.searchsorted(self.bare["index"], [index, index + 1])
        return {int(row["part"]): row["digest"].tobytes() for row in self.bare[first:past]}

    def entry(self, index):
        """Return the EntryPrivate of an entry; salts of sides that it does not have mean
        nothing."""
        if not 0 <= index < self.entry_count:
            raise IndexError(f"entry {index} of a block of {self.entry_count}")
        bare = self.bare_of(index)
        debit, credit, leaf, ext = (bare.get(part) for part in (1, 2, 3, 4))
        salts = self.side_salts(index)
        has_metadata = bool(np.any(self.metadata_indexes == index))
        return EntryPrivate(
            salts[:16] if debit is None and leaf is None else None,
            salts[16:] if credit is None and leaf is None else None,
            self.ext_salt(index) if has_metadata else None,
            debit, credit, ext, leaf,
        )

    def tobytes(self):
        """Return the stored form, without the indexes of the metadata that follow it."""
        if self.seed is not None:
            return bytes(self.seed)
        return b"".join((
            len(self.bare).to_bytes(4, "little"), self.bare.tobytes(), self.salts.tobytes(),
            self.ext_salts.tobytes(),
        ))


cdef int _BARE_EXT = layout.BARE_PARTS["ext"][0]
