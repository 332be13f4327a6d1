/* Loops of batch normalisation over rows of channels and over planes of one channel; see kernels/every_level.h.
 *
 * Moments are taken of strips that stay in the nearest cache, in two passes each, and put together in double precision.
 */

/* Put the moments of `count` values together with those of `before`. */
static TRT_TARGET void TRT_LEVEL(trt_join_moments)(double *mean, double *squares, double before, const float *here,
                                                   const float *here_squares, double count, npy_intp channels)
{
    const double share = count / (before + count), weight = before * share;
    for (npy_intp c = 0; c < channels; c++) {
        const double apart = here[c] - mean[c];
        mean[c] += apart * share;
        squares[c] += here_squares[c] + apart * apart * weight;
    }
}

/* The mean and the sum of squared distances from it of every channel of rows; `step` elements from row to row. */
static TRT_TARGET void TRT_LEVEL(trt_row_moments)(const trt_mem_f32 *x, npy_intp rows, npy_intp step, npy_intp channels,
                                                  double *mean, double *squares)
{
    float sums[TRT_NORM_WIDTH], distances[TRT_NORM_WIDTH];
    npy_intp height = TRT_NORM_STRIP / channels;
    for (npy_intp c = 0; c < channels; c++)
        mean[c] = squares[c] = 0;
    for (npy_intp row = 0, here; row < rows; row += here) {
        here = rows - row < height ? rows - row : height;
        const trt_mem_f32 *strip = x + row * step;
        for (npy_intp c = 0; c < channels; c++)
            sums[c] = distances[c] = 0;
        for (npy_intp r = 0; r < here; r++)
            for (npy_intp c = 0; c < channels; c++)
                sums[c] += strip[r * step + c];
        for (npy_intp c = 0; c < channels; c++)
            sums[c] /= (float)here;
        for (npy_intp r = 0; r < here; r++)
            for (npy_intp c = 0; c < channels; c++) {
                const float apart = strip[r * step + c] - sums[c];
                distances[c] += apart * apart;
            }
        TRT_LEVEL(trt_join_moments)(mean, squares, (double)row, sums, distances, (double)here, channels);
    }
}

/* The sum of f(x[i], y[i]) in lanes. */
#define TRT_NORM_SUM(NAME, FORMULA) \
    static TRT_TARGET float TRT_LEVEL(trt_norm_##NAME)(const trt_mem_f32 *x, const trt_mem_f32 *y, float mean, \
                                                       npy_intp count) \
    { \
        enum { LANES = 16 }; \
        float lanes[LANES] = {0}, sum = 0; \
        npy_intp i = 0; \
        for (; i + LANES <= count; i += LANES) \
            for (int k = 0; k < LANES; k++) { \
                const float a = x[i + k], b = y[i + k]; \
                (void)b; \
                lanes[k] += FORMULA; \
            } \
        for (; i < count; i++) { \
            const float a = x[i], b = y[i]; \
            (void)b; \
            sum += FORMULA; \
        } \
        for (int k = 0; k < LANES; k++) \
            sum += lanes[k]; \
        return sum; \
    }
TRT_NORM_SUM(sum, a)
TRT_NORM_SUM(distance, (a - mean) * (a - mean))
TRT_NORM_SUM(projection, a * (b - mean))
#undef TRT_NORM_SUM

static TRT_TARGET void TRT_LEVEL(trt_plane_moments)(const trt_mem_f32 *x, npy_intp count, double before, double *mean,
                                                    double *squares)
{
    for (npy_intp start = 0, here; start < count; start += here) {
        here = count - start < TRT_NORM_STRIP ? count - start : TRT_NORM_STRIP;
        const float average = TRT_LEVEL(trt_norm_sum)(x + start, x + start, 0, here) / (float)here;
        const float distance = TRT_LEVEL(trt_norm_distance)(x + start, x + start, average, here);
        TRT_LEVEL(trt_join_moments)(mean, squares, before + (double)start, &average, &distance, (double)here, 1);
    }
}

/* Blocks [begin, end) of the outer axis into one set of partial moments. */
static TRT_TARGET void TRT_LEVEL(trt_norm_moments)(const trt_norm_work *work, npy_intp begin, npy_intp end,
                                                   double *mean, double *squares)
{
    const npy_intp channels = work->channels, inner = work->inner;
    const trt_mem_f32 *x = (const trt_mem_f32 *)work->x;
    if (inner == 1) {
        for (npy_intp c = 0; c < channels; c += TRT_NORM_WIDTH) {
            npy_intp width = channels - c < TRT_NORM_WIDTH ? channels - c : TRT_NORM_WIDTH;
            TRT_LEVEL(trt_row_moments)(x + begin * channels + c, end - begin, channels, width, mean + c, squares + c);
        }
        return;
    }
    for (npy_intp c = 0; c < channels; c++) {
        mean[c] = squares[c] = 0;
        for (npy_intp i = begin; i < end; i++)
            TRT_LEVEL(trt_plane_moments)(x + (i * channels + c) * inner, inner, (double)(i - begin) * inner, mean + c,
                                         squares + c);
    }
}

/* Sums of dy and of dy (x - mean) of blocks [begin, end). */
static TRT_TARGET void TRT_LEVEL(trt_norm_projections)(const trt_norm_work *work, npy_intp begin, npy_intp end,
                                                       double *sums, double *projections)
{
    const npy_intp channels = work->channels, inner = work->inner;
    const trt_mem_f32 *x = (const trt_mem_f32 *)work->x, *dy = (const trt_mem_f32 *)work->dy;
    float first[TRT_NORM_WIDTH], second[TRT_NORM_WIDTH];
    memset(sums, 0, channels * sizeof(double));
    memset(projections, 0, channels * sizeof(double));
    if (inner != 1) {
        for (npy_intp i = begin; i < end; i++)
            for (npy_intp c = 0; c < channels; c++)
                for (npy_intp start = 0; start < inner; start += TRT_NORM_STRIP) {
                    npy_intp here = inner - start < TRT_NORM_STRIP ? inner - start : TRT_NORM_STRIP;
                    npy_intp at = (i * channels + c) * inner + start;
                    sums[c] += TRT_LEVEL(trt_norm_sum)(dy + at, dy + at, 0, here);
                    projections[c] += TRT_LEVEL(trt_norm_projection)(dy + at, x + at, work->mean[c], here);
                }
        return;
    }
    for (npy_intp from = 0; from < channels; from += TRT_NORM_WIDTH) {
        const npy_intp width = channels - from < TRT_NORM_WIDTH ? channels - from : TRT_NORM_WIDTH;
        const float *mean = work->mean + from;
        for (npy_intp row = begin; row < end; row += 64) {
            const npy_intp stop = end - row < 64 ? end : row + 64;
            for (npy_intp c = 0; c < width; c++)
                first[c] = second[c] = 0;
            for (npy_intp r = row; r < stop; r++) {
                const trt_mem_f32 *xs = x + r * channels + from, *dys = dy + r * channels + from;
                for (npy_intp c = 0; c < width; c++) {
                    first[c] += dys[c];
                    second[c] += dys[c] * (xs[c] - mean[c]);
                }
            }
            for (npy_intp c = 0; c < width; c++) {
                sums[from + c] += first[c];
                projections[from + c] += second[c];
            }
        }
    }
}

/* out = (x - mean) factor + offset, blocks [begin, end). */
static TRT_TARGET void TRT_LEVEL(trt_norm_apply)(const trt_norm_work *work, npy_intp begin, npy_intp end)
{
    const npy_intp channels = work->channels, inner = work->inner;
    const float *mean = work->mean, *factor = work->factor, *offset = work->offset;
    for (npy_intp i = begin; i < end; i++) {
        const trt_mem_f32 *x = (const trt_mem_f32 *)work->x + i * channels * inner;
        trt_mem_f32 *out = (trt_mem_f32 *)work->out + i * channels * inner;
        if (inner == 1) {
            TRT_INDEPENDENT
            for (npy_intp c = 0; c < channels; c++)
                out[c] = (x[c] - mean[c]) * factor[c] + offset[c];
            continue;
        }
        for (npy_intp c = 0; c < channels; c++, x += inner, out += inner) {
            const float m = mean[c], f = factor[c], o = offset[c];
            TRT_INDEPENDENT
            for (npy_intp k = 0; k < inner; k++)
                out[k] = (x[k] - m) * f + o;
        }
    }
}

/* out = (dy - (x - mean) slope - offset) factor. */
static TRT_TARGET void TRT_LEVEL(trt_norm_apply_grad)(const trt_norm_work *work, npy_intp begin, npy_intp end)
{
    const npy_intp channels = work->channels, inner = work->inner;
    const float *mean = work->mean, *factor = work->factor, *offset = work->offset, *slope = work->slope;
    for (npy_intp i = begin; i < end; i++) {
        const trt_mem_f32 *x = (const trt_mem_f32 *)work->x + i * channels * inner;
        const trt_mem_f32 *dy = (const trt_mem_f32 *)work->dy + i * channels * inner;
        trt_mem_f32 *out = (trt_mem_f32 *)work->out + i * channels * inner;
        if (inner == 1) {
            TRT_INDEPENDENT
            for (npy_intp c = 0; c < channels; c++)
                out[c] = (dy[c] - (x[c] - mean[c]) * slope[c] - offset[c]) * factor[c];
            continue;
        }
        for (npy_intp c = 0; c < channels; c++, x += inner, dy += inner, out += inner) {
            const float m = mean[c], f = factor[c], o = offset[c], s = slope[c];
            TRT_INDEPENDENT
            for (npy_intp k = 0; k < inner; k++)
                out[k] = (dy[k] - (x[k] - m) * s - o) * f;
        }
    }
}

static const trt_norm_loops TRT_LEVEL(trt_norm_table) = {
    TRT_LEVEL(trt_norm_moments), TRT_LEVEL(trt_norm_projections), TRT_LEVEL(trt_norm_apply),
    TRT_LEVEL(trt_norm_apply_grad)
};
