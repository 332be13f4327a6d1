/* Undefines what conv.h defines for one type and level; no guard, because it is done for each. */
#undef TRT_TARGET
#undef TRT_MAX_ROWS
#undef TRT_LANES
#undef TRT_VECTOR
#undef TRT_ZERO
#undef TRT_LOAD
#undef TRT_STORE
#undef TRT_SPLAT
#undef TRT_FMA
#undef TRT_ADD
#undef TRT_SUM
#undef TRT_TYPED
