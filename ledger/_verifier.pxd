"""Verification: decide stored entries again."""

from libc.stdint cimport uint32_t

from ledger._block cimport Block
from ledger._core cimport Core
from ledger._layout cimport u128_t


cdef class Verifier(Core):
    cdef u128_t substitute(self, uint32_t slot) noexcept
    cdef void make_way(self, u128_t id) noexcept
    cdef void rename(self, uint32_t slot, u128_t id) noexcept
    cdef list recommit(self, Block block, uint32_t index)
