/* A product of one row, for the type and level of the including file's macros. */

/* Columns [first, + columns) of a product of one row. Each element of B is used once, so what counts is to read it in
 * the order in which it lies: eight rows of it side by side, or, where it lies by columns, eight of those. */
TRT_TARGET static void TRT_TYPED(row_task)(const trt_product *work, ptrdiff_t first, ptrdiff_t columns,
                                           const int *stop)
{
    enum { WIDE = 8, MOST = 2048 };
    TRT_REAL x[MOST];
    TRT_REAL *c = (TRT_REAL *)work->c + first;
    const ptrdiff_t size = sizeof(TRT_REAL);
    for (ptrdiff_t from = 0; from < work->inner && !trt_gemm_stopped(stop); from += MOST) {
        const ptrdiff_t k = work->inner - from < MOST ? work->inner - from : MOST;
        const char *b = work->b.data + from * work->b.row_step + first * work->b.column_step;
        for (ptrdiff_t p = 0; p < k; p++)
            x[p] = *(const TRT_MEM_REAL *)(work->a.data + (from + p) * work->a.column_step);
        if (work->b.column_step == size) {
            if (from == 0)
                memset(c, 0, (size_t)(columns * size));
            for (ptrdiff_t p = 0; p < k; p += WIDE, b += WIDE * work->b.row_step) {
                const ptrdiff_t rows = k - p < WIDE ? k - p : WIDE;
                ptrdiff_t j = 0;
                if (rows == WIDE) {
                    TRT_VECTOR factors[WIDE];
                    for (int i = 0; i < WIDE; i++)
                        factors[i] = TRT_SPLAT(x[p + i]);
                    for (; j + TRT_LANES <= columns; j += TRT_LANES) {
                        TRT_VECTOR even = TRT_LOAD(c + j), odd = TRT_ZERO();
                        for (int i = 0; i < WIDE; i += 2) {
                            even = TRT_FMA(factors[i], TRT_LOAD((const TRT_REAL *)(b + i * work->b.row_step) + j), even);
                            odd = TRT_FMA(factors[i + 1],
                                          TRT_LOAD((const TRT_REAL *)(b + (i + 1) * work->b.row_step) + j), odd);
                        }
                        TRT_STORE(c + j, TRT_ADD(even, odd));
                    }
                }
                for (; j < columns; j++)
                    for (ptrdiff_t i = 0; i < rows; i++)
                        c[j] += x[p + i] * ((const TRT_MEM_REAL *)(b + i * work->b.row_step))[j];
            }
            continue;
        }
        for (ptrdiff_t j = 0; j < columns; j += WIDE, b += WIDE * work->b.column_step) {
            const ptrdiff_t width = columns - j < WIDE ? columns - j : WIDE;
            TRT_VECTOR sums[WIDE];
            ptrdiff_t p = 0;
            for (int i = 0; i < WIDE; i++)
                sums[i] = TRT_ZERO();
            if (width == WIDE)
                for (; p + TRT_LANES <= k; p += TRT_LANES) {
                    const TRT_VECTOR factor = TRT_LOAD(x + p);
                    for (int i = 0; i < WIDE; i++)
                        sums[i] = TRT_FMA(factor, TRT_LOAD((const TRT_REAL *)(b + i * work->b.column_step) + p),
                                          sums[i]);
                }
            for (ptrdiff_t i = 0; i < width; i++) {
                TRT_REAL lanes[TRT_LANES], sum = 0;
                TRT_STORE(lanes, sums[i]);
                for (int lane = 0; lane < TRT_LANES; lane++)
                    sum += lanes[lane];
                for (ptrdiff_t q = p; q < k; q++)
                    sum += x[q] * ((const TRT_MEM_REAL *)(b + i * work->b.column_step))[q];
                c[j + i] = from ? c[j + i] + sum : sum;
            }
        }
    }
}
