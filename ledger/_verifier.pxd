"""Verification: decide stored entries again."""

from libc.stdint cimport uint32_t

from ledger._block cimport Block
from ledger._core cimport Core


cdef class Verifier(Core):
    cdef list recommit(self, Block block, uint32_t index)
