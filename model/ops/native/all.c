/* Everything the library holds, as one translation unit: one compiler call, no headers but the C library's. */
#include "scan_forward.c"
#include "scan_backward.c"
#include "cross_forward.c"
#include "cross_backward.c"
#include "depthwise.c"
#include "gate.c"
#include "linear.c"
#include "block.c" /* uses the products of linear.c and the gate of gate.c */
#include "rate.c"

/* How many numbers a vector holds on this machine. */
int64_t vector_lanes(void) { return V; }
