/* The C interface used from C: against attention written out in double, with arguments that are wrong, and from threads.
 *
 * Every tensor is a block of its own with a margin that must stay as it was, so that a write beside it is found by the
 * margin, and a read by AddressSanitizer. Prints how many comparisons held; ends with 1 at the first that does not.
 *
 *     check [LIBRARY]      LIBRARY pretends one GPU
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "flash_attn.h"

enum { MARGIN = 64, MARK = 0xA5, THREADS = 6, ROUNDS = 10, PARTS = 5 };

#define REQUIRE(condition, ...)                                          \
    do {                                                                 \
        if (!(condition)) {                                              \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
            fprintf(stderr, __VA_ARGS__);                                \
            fprintf(stderr, " (%s)\n", flash_attn_last_error());         \
            exit(1);                                                     \
        }                                                                \
    } while (0)

typedef struct {
    int64_t count;
    size_t bytes;
    unsigned char *block;
    void *data;
} tensor;

static tensor tensor_new(int64_t count, int32_t dtype) {
    tensor made = {.count = count, .bytes = (size_t)count * (dtype == FLASH_ATTN_FLOAT64 ? sizeof(double) : sizeof(float))};
    made.block = malloc(made.bytes + 2 * MARGIN);
    REQUIRE(made.block != NULL, "no memory");
    memset(made.block, MARK, made.bytes + 2 * MARGIN);
    made.data = made.block + MARGIN;
    return made;
}

static void tensor_free(tensor *one) {
    for (int i = 0; i < MARGIN; i++) {
        REQUIRE(one->block[i] == MARK && one->block[MARGIN + one->bytes + (size_t)i] == MARK, "written beside a tensor");
    }
    free(one->block);
}

static double get(const tensor *one, int32_t dtype, int64_t i) {
    return dtype == FLASH_ATTN_FLOAT64 ? ((double *)one->data)[i] : (double)((float *)one->data)[i];
}

static void draw(tensor *one, int32_t dtype, uint64_t seed) {
    for (int64_t i = 0; i < one->count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        const double number = (double)(seed >> 40) / (1 << 23) - 1;
        if (dtype == FLASH_ATTN_FLOAT64) {
            ((double *)one->data)[i] = number;
        } else {
            ((float *)one->data)[i] = (float)number;
        }
    }
}

static int64_t place(const flash_attn_params *p, int64_t b, int64_t h, int64_t i) {
    const int heads_first = p->layout == FLASH_ATTN_BATCH_HEADS_LENGTH;
    return (heads_first ? (b * p->heads + h) * p->length + i : (b * p->length + i) * p->heads + h) * p->head_size;
}

static double dot(const tensor *one, int64_t at, const tensor *other, int64_t to, const flash_attn_params *p) {
    double sum = 0;
    for (int64_t d = 0; d < p->head_size; d++) {
        sum += get(one, p->dtype, at + d) * get(other, p->dtype, to + d);
    }
    return sum;
}

/* Writes out, logsumexp and the gradients of query, key and value. */
static void reference(const flash_attn_params *p, const tensor *grad, const tensor *q, const tensor *k, const tensor *v,
                      double *exact[PARTS]) {
    const double scale = p->scale == 0 ? 1 / sqrt((double)p->head_size) : p->scale;
    double *weights = malloc((size_t)p->length * sizeof *weights);
    double *slopes = malloc((size_t)p->length * sizeof *slopes);
    REQUIRE(weights != NULL && slopes != NULL, "no memory");
    for (int64_t b = 0; b < p->batch; b++) {
        for (int64_t h = 0; h < p->heads; h++) {
            for (int64_t i = 0; i < p->length; i++) {
                const int64_t seen = p->causal ? i + 1 : p->length, at = place(p, b, h, i);
                double most = -INFINITY, sum = 0, mean = 0;
                for (int64_t j = 0; j < seen; j++) {
                    weights[j] = scale * dot(q, at, k, place(p, b, h, j), p);
                    most = fmax(most, weights[j]);
                }
                for (int64_t j = 0; j < seen; j++) {
                    sum += weights[j] = exp(weights[j] - most);
                }
                exact[1][(b * p->heads + h) * p->length + i] = most + log(sum);
                for (int64_t j = 0; j < seen; j++) {
                    weights[j] /= sum;
                    slopes[j] = dot(grad, at, v, place(p, b, h, j), p);
                    mean += weights[j] * slopes[j];
                }
                for (int64_t j = 0; j < seen; j++) {
                    const int64_t to = place(p, b, h, j);
                    const double change = scale * weights[j] * (slopes[j] - mean);
                    for (int64_t d = 0; d < p->head_size; d++) {
                        exact[0][at + d] += weights[j] * get(v, p->dtype, to + d);
                        exact[2][at + d] += change * get(k, p->dtype, to + d);
                        exact[3][to + d] += change * get(q, p->dtype, at + d);
                        exact[4][to + d] += weights[j] * get(grad, p->dtype, at + d);
                    }
                }
            }
        }
    }
    free(weights);
    free(slopes);
}

static void compare(const flash_attn_params *p, const char *what, const tensor *found, const double *exact) {
    const double tolerance = p->dtype == FLASH_ATTN_FLOAT64 ? 1e-12 : 1e-5;
    double most = 1e-3;
    for (int64_t i = 0; i < found->count; i++) {
        most = fmax(most, fabs(exact[i]));
    }
    for (int64_t i = 0; i < found->count; i++) {
        const double error = fabs(get(found, p->dtype, i) - exact[i]) / most;
        REQUIRE(error <= tolerance, "%s is off by %g at %lld, dtype %d, layout %d, causal %d, scale %g", what, error,
                (long long)i, p->dtype, p->layout, p->causal, p->scale);
    }
}

static void check(const flash_attn_params *p, uint64_t seed) {
    static const char *const names[PARTS] = {"out", "logsumexp", "grad_query", "grad_key", "grad_value"};
    const int64_t count = p->batch * p->length * p->heads * p->head_size, sums = p->batch * p->length * p->heads;
    tensor inputs[4], found[PARTS];
    double *exact[PARTS];
    for (int i = 0; i < 4; i++) {
        inputs[i] = tensor_new(count, p->dtype);
        draw(&inputs[i], p->dtype, seed + (uint64_t)i);
    }
    for (int i = 0; i < PARTS; i++) {
        found[i] = tensor_new(i == 1 ? sums : count, p->dtype);
        exact[i] = calloc((size_t)found[i].count, sizeof(double));
        REQUIRE(exact[i] != NULL, "no memory");
    }
    const void *grad = inputs[0].data, *q = inputs[1].data, *k = inputs[2].data, *v = inputs[3].data;
    reference(p, &inputs[0], &inputs[1], &inputs[2], &inputs[3], exact);
    int status = flash_attn_forward(p, q, k, v, found[0].data, NULL);
    REQUIRE(status == FLASH_ATTN_OK, "status %d", status);
    compare(p, "out without logsumexp", &found[0], exact[0]);
    memset(found[0].data, MARK, found[0].bytes);
    status = flash_attn_forward(p, q, k, v, found[0].data, found[1].data);
    REQUIRE(status == FLASH_ATTN_OK, "status %d", status);
    status = flash_attn_backward(p, grad, q, k, v, found[0].data, found[1].data, found[2].data, found[3].data,
                                 found[4].data);
    REQUIRE(status == FLASH_ATTN_OK, "status %d", status);
    REQUIRE(flash_attn_last_error()[0] == '\0', "a message after success");
    for (int i = 0; i < PARTS; i++) {
        compare(p, names[i], &found[i], exact[i]);
        tensor_free(&found[i]);
        free(exact[i]);
    }
    for (int i = 0; i < 4; i++) {
        tensor_free(&inputs[i]);
    }
}

static const flash_attn_params SOUND = {
    .struct_size = sizeof(flash_attn_params), .batch = 1, .length = 2, .heads = 1, .head_size = 8, .dtype = FLASH_ATTN_FLOAT32};

static int check_all(void) {
    static const int64_t sizes[][4] = {{1, 1, 1, 1}, {2, 7, 3, 5}, {1, 70, 2, 64}, {2, 33, 1, 40}};
    int held = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int bits = 0; bits < 16; bits++) {
            flash_attn_params p = SOUND;
            p.batch = sizes[i][0];
            p.length = sizes[i][1];
            p.heads = sizes[i][2];
            p.head_size = sizes[i][3];
            p.scale = bits & 1 ? 0.3 : 0;
            p.causal = bits >> 1 & 1;
            p.layout = bits >> 2 & 1;
            p.dtype = bits & 8 ? FLASH_ATTN_FLOAT64 : FLASH_ATTN_FLOAT32;
            check(&p, 1 + i);
            held++;
        }
    }
    return held;
}

typedef struct {
    int status;
    const char *words;
    flash_attn_params params;
} wrong;

#define WRONG(status_, words_, ...)                                                                                   \
    {                                                                                                                 \
        .status = (status_), .words = (words_), .params = {.struct_size = sizeof(flash_attn_params), .batch = 1,      \
                                                           .length = 2, .heads = 1, .head_size = 8,                   \
                                                           .dtype = FLASH_ATTN_FLOAT32, __VA_ARGS__ }                 \
    }

/* Refuses it in both directions, with its words; the tensors are not touched. */
static void refuse(const flash_attn_params *p, void *const at[9], int status, const char *words) {
    for (int backward = 0; backward < 2; backward++) {
        const int found = backward ? flash_attn_backward(p, at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7], at[8])
                                   : flash_attn_forward(p, at[1], at[2], at[3], at[4], at[5]);
        REQUIRE(found == status, "status %d instead of %d for %s", found, status, words);
        REQUIRE(strstr(flash_attn_last_error(), words) != NULL, "no `%s`", words);
        REQUIRE(strcmp(flash_attn_status_text(found), "unknown status") != 0, "status %d has no text", found);
    }
}

static int refuse_all(int gpus) {
    static _Alignas(16) double memory[9][16];
    void *sound[9];
    for (int i = 0; i < 9; i++) {
        sound[i] = memory[i];
    }
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Woverride-init" /* each row replaces one field of the sound parameters */
    const wrong rows[] = {
        WRONG(FLASH_ATTN_BAD_STRUCT, "struct_size is 8;", .struct_size = 8),
        WRONG(FLASH_ATTN_BAD_SIZE, "batch is 0, which is below 1", .batch = 0),
        WRONG(FLASH_ATTN_BAD_SIZE, "length is -1, which is below 1", .length = -1),
        WRONG(FLASH_ATTN_BAD_SIZE, "heads is -9223372036854775808", .heads = INT64_MIN),
        WRONG(FLASH_ATTN_BAD_SIZE, "head_size is 0", .head_size = 0),
        WRONG(FLASH_ATTN_OVERFLOW, "head_size 16 makes a tensor larger", .batch = INT64_C(1) << 56, .length = 1, .head_size = 16),
        WRONG(FLASH_ATTN_OVERFLOW, "length 4294967296 makes", .batch = INT64_C(1) << 32, .length = INT64_C(1) << 32),
        WRONG(FLASH_ATTN_BAD_SIZE, "key_length is -1, which is below 0", .key_length = -1),
        WRONG(FLASH_ATTN_BAD_SIZE, "key_heads is -1, which is below 0", .key_heads = -1),
        WRONG(FLASH_ATTN_BAD_SIZE, "mask_batch is -1, which is below 0", .mask_batch = -1),
        WRONG(FLASH_ATTN_OVERFLOW, "key_length 2305843009213693952 makes", .key_length = INT64_C(1) << 61),
        WRONG(FLASH_ATTN_BAD_KEY_HEADS, "6 heads cannot share 4 key_heads equally", .heads = 6, .key_heads = 4),
        WRONG(FLASH_ATTN_BAD_CAUSAL, "causal is 1 with length 2 and key_length 3; pass a mask", .causal = 1, .key_length = 3),
        WRONG(FLASH_ATTN_BAD_MASK, "mask_batch is 3, neither 1 nor 2", .mask = memory, .batch = 2, .mask_batch = 3),
        WRONG(FLASH_ATTN_BAD_MASK, "mask_heads is 2, neither 1 nor 1", .mask = memory, .mask_heads = 2),
        WRONG(FLASH_ATTN_BAD_ALIGNMENT, "mask is at ", .mask = (char *)memory + 2),
        WRONG(FLASH_ATTN_BAD_DTYPE, "dtype is 4, which names none", .dtype = 4),
        WRONG(FLASH_ATTN_BAD_DTYPE, "dtype is -1, which names none", .dtype = -1),
        WRONG(FLASH_ATTN_BAD_LAYOUT, "layout is 2, which names none", .layout = 2),
        WRONG(FLASH_ATTN_BAD_CAUSAL, "causal is 2, neither 0 nor 1", .causal = 2),
        WRONG(FLASH_ATTN_BAD_SCALE, "scale is nan", .scale = NAN),
        WRONG(FLASH_ATTN_BAD_SCALE, "scale is inf", .scale = INFINITY),
        WRONG(FLASH_ATTN_BAD_SCALE, "scale is -1", .scale = -1),
        WRONG(FLASH_ATTN_BAD_DEVICE, "device is 2, which names none", .device = 2),
        WRONG(FLASH_ATTN_BAD_DEVICE, "device_index is 1; a CPU has index 0", .device_index = 1),
        WRONG(FLASH_ATTN_BAD_DEVICE, "device_index is -1, and this torch sees", .device = FLASH_ATTN_GPU, .device_index = -1),
        WRONG(FLASH_ATTN_BAD_DEVICE, "device_index is 99, and this torch sees", .device = FLASH_ATTN_GPU, .device_index = 99),
        WRONG(FLASH_ATTN_BAD_STREAM, "a CPU has none", .stream = memory),
    };
    /* What is asked of a GPU that is there; that it does not know this memory is torch's own word. */
    const wrong gpu_rows[] = {
        WRONG(FLASH_ATTN_BAD_STREAM, "no stream that was created", .device = FLASH_ATTN_GPU, .stream = (void *)1),
        WRONG(FLASH_ATTN_BAD_STREAM, "no stream that was created", .device = FLASH_ATTN_GPU, .stream = (void *)2),
        WRONG(FLASH_ATTN_BAD_DTYPE, "a GPU needs float16 or bfloat16", .device = FLASH_ATTN_GPU),
        WRONG(FLASH_ATTN_BAD_HEAD_SIZE, "head_size is 12;", .device = FLASH_ATTN_GPU, .dtype = 0, .head_size = 12),
        WRONG(FLASH_ATTN_BAD_HEAD_SIZE, "head_size is 264;", .device = FLASH_ATTN_GPU, .dtype = 0, .head_size = 264),
        WRONG(FLASH_ATTN_BAD_MASK, "mask is not null; torch's flash kernels of a GPU have none", .device = FLASH_ATTN_GPU,
              .dtype = 0, .mask = memory),
        WRONG(FLASH_ATTN_WRONG_MEMORY, ": ", .device = FLASH_ATTN_GPU, .dtype = 0),
    };
#pragma GCC diagnostic pop
    int held = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++, held++) {
        refuse(&rows[i].params, sound, rows[i].status, rows[i].words);
    }
    for (size_t i = 0; gpus && i < sizeof gpu_rows / sizeof *gpu_rows; i++, held++) {
        refuse(&gpu_rows[i].params, sound, gpu_rows[i].status, gpu_rows[i].words);
    }
    if (!gpus) {
        flash_attn_params p = SOUND;
        p.device = FLASH_ATTN_GPU;
        refuse(&p, sound, FLASH_ATTN_BAD_DEVICE, "device_index is 0, and this torch sees 0 GPUs");
        held++;
    }
    refuse(NULL, sound, FLASH_ATTN_BAD_STRUCT, "params is null");
    for (int i = 0; i < 9; i++, held++) {
        static const char *const names[] = {"grad_out", "query", "key", "value", "out", "logsumexp", "grad_query", "grad_key",
                                            "grad_value"};
        char null[32], crooked[32];
        snprintf(null, sizeof null, "%s is null", names[i]);
        snprintf(crooked, sizeof crooked, "%s is at ", names[i]);
        void *changed[9];
        memcpy(changed, sound, sizeof changed);
        for (int moved = 0; moved < 2; moved++) {
            changed[i] = moved ? (char *)sound[i] + 2 : NULL;
            const char *words = moved ? crooked : null;
            const int status = moved ? FLASH_ATTN_BAD_ALIGNMENT : FLASH_ATTN_NULL_POINTER;
            const int found = flash_attn_backward(&SOUND, changed[0], changed[1], changed[2], changed[3], changed[4],
                                                  changed[5], changed[6], changed[7], changed[8]);
            REQUIRE(found == status && strstr(flash_attn_last_error(), words), "status %d, no `%s`", found, words);
        }
    }
    for (int i = 0; i < 9; i++) {
        for (int j = 0; j < 16; j++) {
            REQUIRE(memory[i][j] == 0, "a refused call wrote to its tensors");
        }
    }
    REQUIRE(strcmp(flash_attn_status_text(FLASH_ATTN_OK), "no error") == 0, "status 0");
    REQUIRE(strcmp(flash_attn_status_text(-1), "unknown status") == 0, "status -1");
    REQUIRE(strcmp(flash_attn_status_text(FLASH_ATTN_BAD_MASK + 1), "unknown status") == 0, "one status more");
    return held + 1;
}

/* Each thread has sizes and a mistake of its own: results and messages must not be those of another. */
static void *in_thread(void *number) {
    const int64_t own = *(int64_t *)number;
    for (int round = 0; round < ROUNDS; round++) {
        flash_attn_params p = SOUND;
        char words[32];
        p.batch = -own;
        snprintf(words, sizeof words, "batch is %lld,", (long long)-own);
        REQUIRE(flash_attn_forward(&p, NULL, NULL, NULL, NULL, NULL) == FLASH_ATTN_BAD_SIZE, "in a thread");
        p.batch = 2;
        p.length = 8 * own + round;
        p.heads = own;
        p.causal = round % 2;
        REQUIRE(strstr(flash_attn_last_error(), words) != NULL, "the message of another thread");
        check(&p, (uint64_t)(100 * own + round));
    }
    return NULL;
}

static int run_threads(void) {
    pthread_t threads[THREADS];
    int64_t numbers[THREADS];
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i + 1;
        REQUIRE(pthread_create(&threads[i], NULL, in_thread, &numbers[i]) == 0, "no thread");
    }
    for (int i = 0; i < THREADS; i++) {
        REQUIRE(pthread_join(threads[i], NULL) == 0, "no thread");
    }
    return THREADS * ROUNDS;
}

int main(int count, char **arguments) {
    const int gpus = count > 1;
    REQUIRE(!gpus || dlopen(arguments[1], RTLD_NOW | RTLD_GLOBAL) != NULL, "%s", dlerror());
    const int compared = check_all(), refused = refuse_all(gpus), threaded = run_threads();
    printf("%d problems compared, %d arguments refused, %d problems in threads\n", compared, refused, threaded);
    return 0;
}
