/* fused_impl.h: the steps that are most used, on rows of halves without a detour: a row is read, stepped and rounded in
 * registers; a part of rows_impl.h, by which alone it is included. Do not break: the bits are those of the codec and the step
 * in steps_impl.h, one after the other. Rows have a multiple of 32 elements.
 *
 * With the codec alone a step of a bfloat16 table takes as long as one of float32: the processor works on decoded rows
 * while the memory rests, and waits for it then. This way it takes 0.7 of that (benchmarks/README.md). */

/* Elements at .. at + FE_WIDTH of a state, to read and to write; bfloat16 is collected in `block`, for 32 of them. */
#define READ_float32(state, at) *(const vec *)((const float *)(state) + (at))
#define READ_bfloat16(state, at) load_bfloat16_vec((const char *)(state), at)
#define WRITE_float32(state, at, x, block) *(vec *)((float *)(state) + (at)) = x
#define WRITE_bfloat16(state, at, x, block) *(vec *)(block) = x
#define FLUSH_float32(state, at, block)
#define FLUSH_bfloat16(state, at, block)                                     \
    if (stochastic) noise_of_block(words, (uint32_t)((at) / 32), state_key); \
    block_bfloat16((uint16_t *)(state) + (at), block, words, stochastic);

FE_INLINE void ask_block(const char *state, size_t at, const int two_lines, const int near)
{
    FE_PREFETCH(state + at, near);
    if (two_lines) FE_PREFETCH(state + at + 64, near);
}

#define SIGNATURE                                                                                                  \
    void *const *rows, void *const *states, const int64_t *numbers, const float *const *grads, size_t n, size_t d, \
        const fe_hyper *hyper, float fade, const fe_rounding *rounding

/* A step: `before` is done for each row, `column` for each vector of w, of g, and of the parts a and b of the state, which
 * has `parts` of them. */
#define FUSED(step, dtype, state_dtype, parts, before, column)                                                       \
    FE_INLINE void FE_NAME(inner_##step##_##dtype##_##state_dtype)(SIGNATURE, const int stochastic, const int near)  \
    {                                                                                                                \
        const float lr = hyper->learning_rate, eps = hyper->epsilon;                                                 \
        const float c1 = 1.0f - hyper->beta_1, c2 = 1.0f - hyper->beta_2;                                            \
        const uint64_t row_start = start_of_keys(rounding, 0), state_start = start_of_keys(rounding, 1);             \
        const int wide = FE_##state_dtype == FE_float32;                                                             \
        uvec words[BLOCK_VECS];                                                                                      \
        uint32_t row_key[2] = {0, 0}, state_key[2] = {0, 0};                                                         \
        (void)lr, (void)eps, (void)c1, (void)c2, (void)state_start, (void)state_key, (void)wide;                     \
        for (size_t i = 0; i < n; i++) {                                                                             \
            uint16_t *const row = (uint16_t *)rows[i];                                                               \
            const uint16_t *const next_row = (const uint16_t *)rows[i + FE_AHEAD_STEP];                              \
            void *const s = states[i];                                                                               \
            const char *const next_s = (const char *)states[i + FE_AHEAD_STEP];                                      \
            const float *const grad = grads[i];                                                                      \
            (void)s, (void)next_s;                                                                                   \
            if (stochastic) key_of_row(row_key, row_start, numbers[i]);                                              \
            if (stochastic && parts && !wide) key_of_row(state_key, state_start, numbers[i]);                        \
            before;                                                                                                  \
            for (size_t j = 0; j < d; j += BLOCK_COLUMNS) {                                                          \
                float x[BLOCK_COLUMNS], part_a[BLOCK_COLUMNS], part_b[BLOCK_COLUMNS];                                \
                (void)part_a, (void)part_b;                                                                          \
                FE_PREFETCH(next_row + j, near);                                                                     \
                for (int p = 0; p < parts; p++) ask_block(next_s, ((size_t)p * d + j) * (wide ? 4 : 2), wide, near); \
                for (int k = 0; k < BLOCK_VECS; k++) {                                                               \
                    const size_t here = (size_t)k * FE_WIDTH;                                                        \
                    const vec g = *(const vec *)(grad + j + here);                                                   \
                    vec w = FE_PASTE(FE_PASTE(load, dtype), vec)((const char *)row, j + here), a = {0}, b = {0};     \
                    if (fade != 0) w -= fade * w;                                                                    \
                    if (parts > 0) a = READ_##state_dtype(s, j + here);                                              \
                    if (parts > 1) b = READ_##state_dtype(s, d + j + here);                                          \
                    column;                                                                                          \
                    *(vec *)(x + here) = w;                                                                          \
                    if (parts > 0) WRITE_##state_dtype(s, j + here, a, part_a + here);                               \
                    if (parts > 1) WRITE_##state_dtype(s, d + j + here, b, part_b + here);                           \
                }                                                                                                    \
                if (stochastic) noise_of_block(words, (uint32_t)(j / 32), row_key);                                  \
                block_##dtype(row + j, x, words, stochastic);                                                        \
                if (parts > 0) { FLUSH_##state_dtype(s, j, part_a) }                                                 \
                if (parts > 1) { FLUSH_##state_dtype(s, d + j, part_b) }                                             \
            }                                                                                                        \
        }                                                                                                            \
    }                                                                                                                \
    FE_STATIC void FE_NAME(step##_##dtype##_##state_dtype)(SIGNATURE)                                                \
    {                                                                                                                \
        if (rounding->stochastic) FE_NAME(inner_##step##_##dtype##_##state_dtype)                                    \
        (rows, states, numbers, grads, n, d, hyper, fade, rounding, 1, fe_near);                                     \
        else FE_NAME(inner_##step##_##dtype##_##state_dtype)(rows, states, numbers, grads, n, d, hyper, fade,        \
                                                             rounding, 0, fe_near);                                  \
    }

#define NOTHING
#define SGD w -= lr * g
#define ADAGRAD a += g * g, w -= lr * g / SQRT(vec, a + eps)
#define ADAM a += (g - a) * c1, b += (g * g - b) * c2, w -= lr * a / (SQRT(vec, b) + eps)
#define ROWWISE_ADAGRAD w -= rate * g
#define ROW_RATE                                                     \
    float *const total = (float *)s;                                 \
    const float sum = total[0] + dot_rows(grad, grad, d) / (float)d; \
    const float rate = lr / (sqrt_fe_real(sum) + eps);               \
    FE_PREFETCH(next_s, near);                                       \
    total[0] = sum
FUSED(sgd, bfloat16, float32, 0, NOTHING, SGD)
FUSED(sgd, float16, float32, 0, NOTHING, SGD)
FUSED(rowwise_adagrad, bfloat16, float32, 0, ROW_RATE, ROWWISE_ADAGRAD)
FUSED(rowwise_adagrad, float16, float32, 0, ROW_RATE, ROWWISE_ADAGRAD)
FUSED(adagrad, bfloat16, float32, 1, NOTHING, ADAGRAD)
FUSED(adagrad, bfloat16, bfloat16, 1, NOTHING, ADAGRAD)
FUSED(adagrad, float16, float32, 1, NOTHING, ADAGRAD)
FUSED(adagrad, float16, bfloat16, 1, NOTHING, ADAGRAD)
FUSED(adam, bfloat16, float32, 2, NOTHING, ADAM)
FUSED(adam, bfloat16, bfloat16, 2, NOTHING, ADAM)
FUSED(adam, float16, float32, 2, NOTHING, ADAM)
FUSED(adam, float16, bfloat16, 2, NOTHING, ADAM)
#undef NOTHING
#undef SGD
#undef ADAGRAD
#undef ADAM
#undef ROWWISE_ADAGRAD
#undef ROW_RATE
#undef FUSED
#undef SIGNATURE

FE_STATIC fe_fused *FE_NAME(fused)(int dtype, int state_dtype, int step)
{
    fe_fused *const halves[2][4][2] = {
        {{FE_NAME(sgd_bfloat16_float32), NULL},
         {FE_NAME(rowwise_adagrad_bfloat16_float32), NULL},
         {FE_NAME(adagrad_bfloat16_float32), FE_NAME(adagrad_bfloat16_bfloat16)},
         {FE_NAME(adam_bfloat16_float32), FE_NAME(adam_bfloat16_bfloat16)}},
        {{FE_NAME(sgd_float16_float32), NULL},
         {FE_NAME(rowwise_adagrad_float16_float32), NULL},
         {FE_NAME(adagrad_float16_float32), FE_NAME(adagrad_float16_bfloat16)},
         {FE_NAME(adam_float16_float32), FE_NAME(adam_float16_bfloat16)}},
    };
    const int steps[4] = {FE_STEP_sgd, FE_STEP_rowwise_adagrad, FE_STEP_adagrad, FE_STEP_adam};
    if (dtype != FE_bfloat16 && dtype != FE_float16) return NULL;
    if (state_dtype != FE_float32 && state_dtype != FE_bfloat16) return NULL;
    for (int k = 0; k < 4; k++)
        if (steps[k] == step) return halves[dtype == FE_float16][k][state_dtype == FE_bfloat16];
    return NULL;
}
