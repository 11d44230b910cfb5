/* Everything the library holds, as one translation unit: one compiler call, no headers but the C library's. */
#include "scan.c"
#include "cross.c"
#include "linear.c"
#include "rate.c"
