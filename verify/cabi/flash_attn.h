/* Flash attention over raw pointers, computed by the attention of torch (ATen).
 *
 * One library serves CPUs, CUDA and ROCm: torch's own build decides. Every function may be called from several threads at
 * once. No function throws, ends the process because of an argument it can check, or keeps a pointer after it returned.
 *
 * Build it with `PYTHON verify/cabi/build.py`, where PYTHON is the one whose torch is to compute.
 */
#ifndef FIRSTLIGHT_FLASH_ATTN_H
#define FIRSTLIGHT_FLASH_ATTN_H

#include <stddef.h>
#include <stdint.h>

#define FLASH_ATTN_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/* What a call returns. Values are never reused for another meaning. */
enum flash_attn_status {
    FLASH_ATTN_OK = 0,
    FLASH_ATTN_BAD_STRUCT = 1,    /* no parameters, or struct_size is not that of this header */
    FLASH_ATTN_NULL_POINTER = 2,  /* a tensor that is required has no address */
    FLASH_ATTN_BAD_ALIGNMENT = 3, /* an address is not a multiple of the element's size; on a GPU, of 16 */
    FLASH_ATTN_BAD_SIZE = 4,      /* batch, length, heads or head_size is below 1, or another size below 0 */
    FLASH_ATTN_BAD_HEAD_SIZE = 5, /* on a GPU: above 256, or no multiple of 8 */
    FLASH_ATTN_OVERFLOW = 6,      /* a tensor would have more bytes than can be addressed */
    FLASH_ATTN_BAD_DTYPE = 7,     /* unknown; on a GPU also float32 and float64 */
    FLASH_ATTN_BAD_LAYOUT = 8,    /* unknown */
    FLASH_ATTN_BAD_CAUSAL = 9,    /* neither 0 nor 1, or 1 with another key_length */
    FLASH_ATTN_BAD_SCALE = 10,    /* negative, infinite or not a number */
    FLASH_ATTN_BAD_DEVICE = 11,   /* unknown, not there, or torch was built without it */
    FLASH_ATTN_BAD_STREAM = 12,   /* a stream with a CPU, or a constant of CUDA instead of a created stream */
    FLASH_ATTN_WRONG_MEMORY = 13, /* an address is not in the memory of that GPU */
    FLASH_ATTN_NO_MEMORY = 14,    /* the host or the GPU has too little free memory */
    FLASH_ATTN_TORCH_ERROR = 15,  /* torch refused or failed; flash_attn_last_error() has its words */
    FLASH_ATTN_BAD_KEY_HEADS = 16, /* they do not divide heads, or this torch has no kernel for fewer on a CPU */
    FLASH_ATTN_BAD_MASK = 17      /* on a GPU, or of sizes that do not fit */
};

enum flash_attn_dtype {
    FLASH_ATTN_FLOAT16 = 0,
    FLASH_ATTN_BFLOAT16 = 1,
    FLASH_ATTN_FLOAT32 = 2,
    FLASH_ATTN_FLOAT64 = 3
};

/* Order of the dimensions of query, key, value, out and their gradients, which are contiguous. */
enum flash_attn_layout {
    FLASH_ATTN_BATCH_LENGTH_HEADS = 0, /* (batch, length, heads, head_size); keys: (batch, key_length, key_heads, ...) */
    FLASH_ATTN_BATCH_HEADS_LENGTH = 1  /* (batch, heads, length, head_size); keys: (batch, key_heads, key_length, ...) */
};

enum flash_attn_device {
    FLASH_ATTN_CPU = 0,
    FLASH_ATTN_GPU = 1 /* CUDA or ROCm, whichever torch was built for */
};

/* Set struct_size and the four sizes; zero is a sound choice for the rest, but for 32-bit floats on a CPU name the dtype. */
typedef struct flash_attn_params {
    size_t struct_size; /* sizeof(flash_attn_params) */
    int64_t batch;
    int64_t length; /* of the queries */
    int64_t heads;
    int64_t head_size;
    double scale;         /* what scores are multiplied with; 0 stands for 1 / sqrt(head_size) */
    int32_t causal;       /* 1: a query sees no later key */
    int32_t dtype;        /* enum flash_attn_dtype */
    int32_t layout;       /* enum flash_attn_layout */
    int32_t device;       /* enum flash_attn_device */
    int32_t device_index; /* of the GPU; 0 with a CPU */
    void *stream;         /* cudaStream_t or hipStream_t; null is the default stream; null with a CPU */
    int64_t key_length;   /* of keys and values, such as a cache; 0 stands for length */
    int64_t key_heads;    /* of keys and values; each serves heads / key_heads queries; 0 stands for heads */
    const void *mask;     /* on a CPU: added to the scores, minus infinity hides a key; null for none */
    int64_t mask_batch;   /* of the mask, (mask_batch, mask_heads, length, key_length), in the type of logsumexp: 1 or */
    int64_t mask_heads;   /* batch, and 1 or heads; 0 stands for 1 */
} flash_attn_params;

/* out = softmax(scale * query * key^T + mask) * value
 *
 * With causal, query and key have one length. One query that follows a cache of keys sees all of them, so it needs neither
 * causal nor a mask; several do, and a sliding window or a choice of blocks, too. A query that sees no key gives zeros.
 *
 * logsumexp has the logarithm of each query's sum, (batch, heads, length), as float64 with FLASH_ATTN_FLOAT64, else float32.
 * It may be null; flash_attn_backward needs it. On a GPU the call returns when the work is in the stream.
 */
FLASH_ATTN_API int flash_attn_forward(const flash_attn_params *params, const void *query, const void *key,
                                      const void *value, void *out, void *logsumexp);

/* The gradients of query, key and value, from that of out and what flash_attn_forward wrote with the same parameters. */
FLASH_ATTN_API int flash_attn_backward(const flash_attn_params *params, const void *grad_out, const void *query,
                                       const void *key, const void *value, const void *out, const void *logsumexp,
                                       void *grad_query, void *grad_key, void *grad_value);

/* What a status means; never null. */
FLASH_ATTN_API const char *flash_attn_status_text(int status);

/* What was wrong in this thread's last call, with the values; empty after FLASH_ATTN_OK. Valid until its next call. */
FLASH_ATTN_API const char *flash_attn_last_error(void);

#ifdef __cplusplus
}
#endif

#endif
