/* Loops over pixels: weighted sums along rows and columns, and colours. All arrays are C-contiguous floats. */
#ifndef TRT_PIXELS_H
#define TRT_PIXELS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* What is summed for each place of a result along one dimension: `count` places, `taps` samples each. */
typedef struct {
    const int64_t *places;  /* (taps, count) */
    const float *weights;   /* (taps, count) */
    ptrdiff_t taps, count;
} trt_taps;

/* One pixel of few channels at a time, its sums in registers. */
#define TRT_GATHER_FEW(CHANNELS)                                            \
    for (ptrdiff_t x = 0; x < taps->count; x++) {                           \
        const float *source = from + taps->places[x] * CHANNELS;            \
        float weight = taps->weights[x], sums[CHANNELS];                    \
        for (int c = 0; c < CHANNELS; c++)                                  \
            sums[c] = source[c] * weight;                                   \
        for (ptrdiff_t k = taps->count + x; k < end; k += taps->count) {    \
            weight = taps->weights[k];                                      \
            if (weight != 0) {                                              \
                source = from + taps->places[k] * CHANNELS;                 \
                for (int c = 0; c < CHANNELS; c++)                          \
                    sums[c] += source[c] * weight;                          \
            }                                                               \
        }                                                                   \
        for (int c = 0; c < CHANNELS; c++)                                  \
            to[x * CHANNELS + c] = sums[c];                                 \
    }

/* to[x, c] = sum of weights[k, x] * from[places[k, x], c], over one row of pixels. A weight of zero but the first does
 * not read its sample. */
static inline void trt_gather_row(const trt_taps *taps, const float *from, float *to, ptrdiff_t channels)
{
    const ptrdiff_t end = taps->taps * taps->count;
    if (channels == 1) {
        TRT_GATHER_FEW(1)
        return;
    }
    if (channels == 3) {
        TRT_GATHER_FEW(3)
        return;
    }
    if (channels == 4) {
        TRT_GATHER_FEW(4)
        return;
    }
    for (ptrdiff_t x = 0; x < taps->count; x++) {
        const float *source = from + taps->places[x] * channels;
        float *target = to + x * channels, weight = taps->weights[x];
        for (ptrdiff_t c = 0; c < channels; c++)
            target[c] = source[c] * weight;
        for (ptrdiff_t k = taps->count + x; k < end; k += taps->count) {
            weight = taps->weights[k];
            source = from + taps->places[k] * channels;
            if (weight != 0)
                for (ptrdiff_t c = 0; c < channels; c++)
                    target[c] += source[c] * weight;
        }
    }
}

/* The reverse: to[places[k, x], c] += weights[k, x] * from[x, c] */
static inline void trt_scatter_row(const trt_taps *taps, const float *from, float *to, ptrdiff_t channels)
{
    for (ptrdiff_t k = 0; k < taps->taps; k++) {
        const int64_t *places = taps->places + k * taps->count;
        const float *weights = taps->weights + k * taps->count;
        for (ptrdiff_t x = 0; x < taps->count; x++) {
            float *target = to + places[x] * channels;
            float weight = weights[x];
            if (weight != 0)
                for (ptrdiff_t c = 0; c < channels; c++)
                    target[c] += from[x * channels + c] * weight;
        }
    }
}

static inline void trt_add_scaled(float *restrict to, const float *restrict from, float weight, ptrdiff_t size, int first)
{
    if (first)
        for (ptrdiff_t i = 0; i < size; i++)
            to[i] = from[i] * weight;
    else
        for (ptrdiff_t i = 0; i < size; i++)
            to[i] += from[i] * weight;
}

/* --- colours --------------------------------------------------------------------------------------------------- */

static inline void trt_to_hsv(float red, float green, float blue, float *hue, float *saturation, float *value)
{
    float most = red > green ? red : green, least = red < green ? red : green;
    most = most > blue ? most : blue;
    least = least < blue ? least : blue;
    float span = most - least, found = 0.0f;
    *saturation = most > 0 ? span / most : 0.0f;
    if (span > 0) {
        float norm = 1.0f / 6.0f / span;
        found = red == most ? norm * (green - blue)
                : green == most ? norm * (blue - red) + 2.0f / 6.0f : norm * (red - green) + 4.0f / 6.0f;
        if (found < 0)
            found += 1.0f;
    }
    *hue = found;
    *value = most;
}

static inline float trt_unit(float x)
{
    return x < 0 ? 0.0f : x > 1 ? 1.0f : x;
}

static inline void trt_to_rgb(float hue, float saturation, float value, float *to)
{
    float wheel = hue * 6.0f, rest = 1.0f - saturation;
    to[0] = (rest + saturation * trt_unit(fabsf(wheel - 3.0f) - 1.0f)) * value;
    to[1] = (rest + saturation * trt_unit(2.0f - fabsf(wheel - 2.0f))) * value;
    to[2] = (rest + saturation * trt_unit(2.0f - fabsf(wheel - 4.0f))) * value;
}

enum { TRT_TO_HSV, TRT_TO_RGB, TRT_TURN_HUE, TRT_SCALE_SATURATION };

static inline void trt_colours(int what, float amount, const float *from, float *to, ptrdiff_t pixels)
{
    for (ptrdiff_t i = 0; i < pixels; i++, from += 3, to += 3) {
        float hue, saturation, value;
        if (what == TRT_TO_RGB) {
            trt_to_rgb(from[0], from[1], from[2], to);
            continue;
        }
        trt_to_hsv(from[0], from[1], from[2], &hue, &saturation, &value);
        if (what == TRT_TO_HSV) {
            to[0] = hue, to[1] = saturation, to[2] = value;
            continue;
        }
        if (what == TRT_TURN_HUE) {
            hue += amount;
            hue -= floorf(hue);
        } else
            saturation = trt_unit(saturation * amount);
        trt_to_rgb(hue, saturation, value, to);
    }
}

/* Move the pixels of one image away from the mean of their channel. `sums` is scratch for `channels` numbers. */
static inline void trt_contrast(const float *from, float *to, ptrdiff_t pixels, ptrdiff_t channels, float factor,
                                double *sums)
{
    memset(sums, 0, channels * sizeof *sums);
    for (ptrdiff_t i = 0; i < pixels; i++)
        for (ptrdiff_t c = 0; c < channels; c++)
            sums[c] += from[i * channels + c];
    for (ptrdiff_t c = 0; c < channels; c++)
        sums[c] /= pixels;
    for (ptrdiff_t i = 0; i < pixels; i++)
        for (ptrdiff_t c = 0; c < channels; c++) {
            float mean = (float)sums[c];
            to[i * channels + c] = (from[i * channels + c] - mean) * factor + mean;
        }
}

/* --- boxes that overlap little ------------------------------------------------------------------------------------ */

/* Keep the first boxes, in the order given, that overlap none kept before by more than a threshold. `boxes` holds top,
 * left, bottom, right and area, with top <= bottom and left <= right; `found` boxes are kept already. Returns how many
 * are kept then, at most `limit`. */
static inline ptrdiff_t trt_suppress(const float *boxes, const int64_t *order, ptrdiff_t count, ptrdiff_t limit,
                                     float threshold, int32_t *kept, ptrdiff_t found)
{
    for (ptrdiff_t i = 0; i < count && found < limit; i++) {
        const float *box = boxes + order[i] * 5;
        int free = 1;
        for (ptrdiff_t j = found - 1; free && j >= 0; j--) {
            const float *other = boxes + (ptrdiff_t)kept[j] * 5;
            if (box[4] <= 0 || other[4] <= 0) {
                free = !(0.0f > threshold);
                continue;
            }
            float top = box[0] > other[0] ? box[0] : other[0], left = box[1] > other[1] ? box[1] : other[1];
            float bottom = box[2] < other[2] ? box[2] : other[2], right = box[3] < other[3] ? box[3] : other[3];
            float height = bottom - top, width = right - left;
            float shared = (height > 0 ? height : 0) * (width > 0 ? width : 0);
            free = !(shared / (box[4] + other[4] - shared) > threshold);
        }
        if (free)
            kept[found++] = (int32_t)order[i];
    }
    return found;
}

#endif
