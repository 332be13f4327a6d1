/* The parameters of a kernel that adds biases. */
#ifndef TRT_KERNELS_BIAS_TYPES_H
#define TRT_KERNELS_BIAS_TYPES_H

#include "kernels/elementwise.h"

typedef struct {
    trt_binary_params add;
    int channels_first;      /* the bias goes along axis 1 instead of the last */
} trt_bias_params;

#endif
