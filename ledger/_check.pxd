"""CHECK: our own bug stops the process before it can do harm; it is never an answer to a client."""

cdef extern from *:
    """
    #ifndef SANYUAN_CHECK
    #include <stdio.h>
    #include <stdlib.h>
    #define SANYUAN_CHECK(condition, message) do { if (!(condition)) { \\
        fprintf(stderr, "sanyuan: CHECK failed: %s\\n", message); abort(); } } while (0)
    #endif
    """
    void CHECK "SANYUAN_CHECK"(bint condition, const char* message) noexcept nogil
