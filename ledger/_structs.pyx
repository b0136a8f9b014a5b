# cython: language_level=3
"""Compares the C structs, as this build has them, with the records of layout.py."""

from ledger._layout cimport *

import numpy as np

from ledger import layout


def check():
    """Compare the C structs with the dtypes of layout.py, names and offsets; raise ImportError on
    any difference."""
    cdef account_t account
    cdef transfer_t transfer
    cdef account_balance_t account_balance
    cdef result_t result
    cdef account_filter_t account_filter
    cdef query_filter_t query_filter
    cdef change_events_filter_t change_events_filter
    cdef change_event_t change_event
    cdef account_settings_t account_settings
    cdef definition_t definition
    cdef business_date_t business_date
    cdef entry_t entry
    cdef resolved_t resolved
    cdef candidate_t candidate
    cdef bare_t bare
    cdef block_header_t block_header
    cdef account_leaf_t account_leaf
    cdef state_row_t state_row
    compiled = {
        "ACCOUNT": np.asarray(<account_t[:1]>&account).dtype,
        "TRANSFER": np.asarray(<transfer_t[:1]>&transfer).dtype,
        "ACCOUNT_BALANCE": np.asarray(<account_balance_t[:1]>&account_balance).dtype,
        "RESULT": np.asarray(<result_t[:1]>&result).dtype,
        "ACCOUNT_FILTER": np.asarray(<account_filter_t[:1]>&account_filter).dtype,
        "QUERY_FILTER": np.asarray(<query_filter_t[:1]>&query_filter).dtype,
        "CHANGE_EVENTS_FILTER": np.asarray(<change_events_filter_t[:1]>&change_events_filter).dtype,
        "CHANGE_EVENT": np.asarray(<change_event_t[:1]>&change_event).dtype,
        "ACCOUNT_SETTINGS": np.asarray(<account_settings_t[:1]>&account_settings).dtype,
        "DEFINITION": np.asarray(<definition_t[:1]>&definition).dtype,
        "BUSINESS_DATE": np.asarray(<business_date_t[:1]>&business_date).dtype,
        "ENTRY": np.asarray(<entry_t[:1]>&entry).dtype,
        "RESOLVED": np.asarray(<resolved_t[:1]>&resolved).dtype,
        "CANDIDATE": np.asarray(<candidate_t[:1]>&candidate).dtype,
        "BARE": np.asarray(<bare_t[:1]>&bare).dtype,
        "BLOCK_HEADER": np.asarray(<block_header_t[:1]>&block_header).dtype,
        "ACCOUNT_LEAF": np.asarray(<account_leaf_t[:1]>&account_leaf).dtype,
        "STATE_ROW": np.asarray(<state_row_t[:1]>&state_row).dtype,
    }
    for name, dtype in compiled.items():
        if dtype != layout.DTYPES[name]:
            raise ImportError(
                f"the C struct of {name} is not the record of layout.py:"
                f" {dtype} and {layout.DTYPES[name]};"
                f" run tools/generate.py and build again")
