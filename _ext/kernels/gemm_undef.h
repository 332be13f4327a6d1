/* Undefines what gemm_vectors.h defines for one type and level; no guard, because it is done for each. */
#undef TRT_TARGET
#undef TRT_MAX_ROWS
#undef TRT_LANES
#undef TRT_VECTOR
#undef TRT_ZERO
#undef TRT_LOAD
#undef TRT_STORE
#undef TRT_SPLAT
#undef TRT_FMA
#undef TRT_ACCUMULATE
#undef TRT_ADD
#undef TRT_MASK
#undef TRT_FEW
#undef TRT_LOAD_FEW
#undef TRT_STORE_FEW
#undef TRT_TYPED
