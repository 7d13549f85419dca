/* steps_impl.h: the steps of the optimizers, and what rows do without a gradient; a part of rows_impl.h, by which alone it
 * is included. Do not break: the bits may not depend on FE_BYTES (see rows.h). */

/* ---- optimizer steps: Keras 3's formulas unless said otherwise --------------------------------------------------- */

#define STEP(name)                                                                                                    \
    FE_STATIC void FE_NAME(name)(fe_real *const *rows, fe_real *const *states, const fe_real *const *grads, size_t n, \
                                 size_t d, const fe_hyper *hyper, double *sums)

/* For every row `before`, the statements of BODY(V, I) for every column, `after`: w is the row, s its state, g its gradient.
 * They ask for the same columns of a later row and of its state. */
#define EACH_ROW(before) EACH_ROW_THEN(before, )
#define EACH_ROW_THEN(before, after)                             \
    if (fe_near)                                                 \
        EACH_ROW_AS(before, after, 1) /* twice, as a constant */ \
    else                                                         \
        EACH_ROW_AS(before, after, 0)
#define EACH_ROW_AS(before, after, is_near)                                         \
    for (size_t i = 0; i < n; i++) {                                                \
        enum { near = is_near };                                                    \
        fe_real *const w = rows[i], *const s = states[i];                           \
        const fe_real *const g = grads[i], *const next_w = rows[i + FE_AHEAD_STEP]; \
        const fe_real *const next_s = states[i + FE_AHEAD_STEP];                    \
        (void)w, (void)s, (void)g, (void)next_s, (void)sums;                        \
        before;                                                                     \
        FE_PREFETCH(next_w + d - 1, near);                                          \
        FE_COLUMNS(BODY)                                                            \
        after;                                                                      \
    }
#define ASK(next) FE_PREFETCH((next) + j, near)

/* A sum across a row that BODY adds to: 16 lanes, then a tree, as in sum_lanes. */
#define LANE(V) (*(V *)(lane + j % 16))
FE_INLINE fe_real sum_of_lanes(fe_real *lane)
{
    for (int half = 8; half; half /= 2)
        for (int k = 0; k < half; k++) lane[k] += lane[k + half];
    return lane[0];
}

/* sums[j] += x[j]^2 */
FE_INLINE void add_squares(double *sums, const fe_real *x, size_t d)
{
    size_t j = 0;
    for (; j + LANES <= d; j += LANES) {
        const real y = CONVERT(GET(lanes, x), real);
        AT(real, sums) += y * y;
    }
    for (; j < d; j++) sums[j] += (double)x[j] * x[j];
}

STEP(store)
{
    (void)states, (void)hyper, (void)sums;
    for (size_t i = 0; i < n; i++) memcpy(rows[i], grads[i], d * sizeof(fe_real));
}

/* Nothing changes; the sum of g^2 */
STEP(squares)
{
    (void)rows, (void)states, (void)hyper;
    for (size_t i = 0; i < n; i++) sums[0] += dot_rows(grads[i], grads[i], d);
}

/* w -= lr g */
STEP(sgd)
{
    const fe_real lr = hyper->learning_rate;
#define BODY(V, I)                  \
    {                               \
        ASK(next_w);                \
        AT(V, w) -= lr * GET(V, g); \
    }
    EACH_ROW()
#undef BODY
}

/* m = mu m - lr g;  w += m */
STEP(momentum)
{
    const fe_real lr = hyper->learning_rate, mu = hyper->momentum;
#define BODY(V, I)                            \
    {                                         \
        V m = mu * AT(V, s) - lr * GET(V, g); \
        ASK(next_w), ASK(next_s);             \
        AT(V, s) = m;                         \
        AT(V, w) += m;                        \
    }
    EACH_ROW()
#undef BODY
}

/* m = mu m - lr g;  w += mu m - lr g */
STEP(nesterov)
{
    const fe_real lr = hyper->learning_rate, mu = hyper->momentum;
#define BODY(V, I)                                         \
    {                                                      \
        V move = lr * GET(V, g), m = mu * AT(V, s) - move; \
        ASK(next_w), ASK(next_s);                          \
        AT(V, s) = m;                                      \
        AT(V, w) += mu * m - move;                         \
    }
    EACH_ROW()
#undef BODY
}

/* a += g^2;  w -= lr g / sqrt(a + eps) */
STEP(adagrad)
{
    const fe_real lr = hyper->learning_rate, eps = hyper->epsilon;
#define BODY(V, I)                             \
    {                                          \
        V x = GET(V, g), a = AT(V, s) + x * x; \
        ASK(next_w), ASK(next_s);              \
        AT(V, s) = a;                          \
        AT(V, w) -= lr * x / SQRT(V, a + eps); \
    }
    EACH_ROW()
#undef BODY
}

/* a += mean(g^2), one number a row;  w -= lr g / (sqrt(a) + eps): FBGEMM's EXACT_ROWWISE_ADAGRAD */
STEP(rowwise_adagrad)
{
    const fe_real lr = hyper->learning_rate, eps = hyper->epsilon;
#define BODY(V, I)                    \
    {                                 \
        ASK(next_w);                  \
        AT(V, w) -= rate * GET(V, g); \
    }
    EACH_ROW(const fe_real a = s[0] + dot_rows(g, g, d) / (fe_real)d; const fe_real rate = lr / (sqrt_fe_real(a) + eps);
             FE_PREFETCH(next_s, near); s[0] = a)
#undef BODY
}

/* m += (g - m)(1 - b1);  v += (g^2 - v)(1 - b2); the state holds m, then v */
#define MOMENTS(V)                                   \
    V x = GET(V, g), m = AT(V, s), v = AT(V, s + d); \
    ASK(next_w), ASK(next_s), ASK(next_s + d);       \
    m += (x - m) * c1;                               \
    v += (x * x - v) * c2;                           \
    AT(V, s) = m;                                    \
    AT(V, s + d) = v

/* m and v;  w -= lr m / (sqrt(v) + eps) */
STEP(adam)
{
    const fe_real lr = hyper->learning_rate, eps = hyper->epsilon;
    const fe_real c1 = 1.0f - hyper->beta_1, c2 = 1.0f - hyper->beta_2;
#define BODY(V, I)                               \
    {                                            \
        MOMENTS(V);                              \
        AT(V, w) -= lr * m / (SQRT(V, v) + eps); \
    }
    EACH_ROW()
#undef BODY
}

/* The larger one; NaN if there is one. */
#define MAX(V, I, a, b) CHOOSE(V, I, ((b) > (a)) | ((b) != (b)), b, a)

/* m and v;  vh = max(vh, v);  w -= lr m / (sqrt(vh) + eps); the state holds m, v, vh */
STEP(amsgrad)
{
    const fe_real lr = hyper->learning_rate, eps = hyper->epsilon;
    const fe_real c1 = 1.0f - hyper->beta_1, c2 = 1.0f - hyper->beta_2;
#define BODY(V, I)                                  \
    {                                               \
        MOMENTS(V);                                 \
        V old = AT(V, s + 2 * d);                   \
        V most = MAX(V, I, old, v);                 \
        ASK(next_s + 2 * d);                        \
        AT(V, s + 2 * d) = most;                    \
        AT(V, w) -= lr * m / (SQRT(V, most) + eps); \
    }
    EACH_ROW()
#undef BODY
}

/* v = rho v + (1 - rho) g^2;  move = lr g / sqrt(v + eps);  w -= move
 * with momentum:  m = mu m + move;  w -= m
 * centered:  a = rho a + (1 - rho) g, and v - a^2 in place of v; it is negative only by rounding, and then 0 here.
 * The state holds v, m, a. */
#define RMSPROP(name, with_momentum, is_centered)                                            \
    STEP(name)                                                                               \
    {                                                                                        \
        enum { moving = with_momentum, centered = is_centered };                             \
        const fe_real lr = hyper->learning_rate, eps = hyper->epsilon, mu = hyper->momentum; \
        const fe_real rho = hyper->beta_2, c = 1.0f - rho;                                   \
        (void)mu;                                                                            \
        EACH_ROW()                                                                           \
    }
#define BODY(V, I)                                                        \
    {                                                                     \
        V x = GET(V, g), v = rho * AT(V, s) + c * (x * x), spread = v;    \
        ASK(next_w), ASK(next_s);                                         \
        AT(V, s) = v;                                                     \
        if (centered) {                                                   \
            V a = rho * AT(V, s + (1 + moving) * d) + c * x;              \
            ASK(next_s + (1 + moving) * d);                               \
            AT(V, s + (1 + moving) * d) = a;                              \
            spread -= a * a;                                              \
            spread = CHOOSE(V, I, spread < ALL(V, 0), ALL(V, 0), spread); \
        }                                                                 \
        V move = lr * x / SQRT(V, spread + eps);                          \
        if (moving) {                                                     \
            ASK(next_s + d);                                              \
            move += mu * AT(V, s + d);                                    \
            AT(V, s + d) = move;                                          \
        }                                                                 \
        AT(V, w) -= move;                                                 \
    }
RMSPROP(rmsprop, 0, 0)
RMSPROP(rmsprop_momentum, 1, 0)
RMSPROP(rmsprop_centered, 0, 1)
RMSPROP(rmsprop_centered_momentum, 1, 1)
#undef BODY
#undef RMSPROP

/* a = rho a + (1 - rho) g^2;  move = sqrt(u + eps) g / sqrt(a + eps);  u = rho u + (1 - rho) move^2;  w -= lr move; the
 * state holds a, then u */
STEP(adadelta)
{
    const fe_real lr = hyper->learning_rate, eps = hyper->epsilon, rho = hyper->beta_2, c = 1.0f - rho;
#define BODY(V, I)                                                           \
    {                                                                        \
        V x = GET(V, g), a = rho * AT(V, s) + c * (x * x), u = AT(V, s + d); \
        V move = SQRT(V, u + eps) * x / SQRT(V, a + eps);                    \
        ASK(next_w), ASK(next_s), ASK(next_s + d);                           \
        AT(V, s) = a;                                                        \
        AT(V, s + d) = rho * u + c * (move * move);                          \
        AT(V, w) -= lr * move;                                               \
    }
    EACH_ROW()
#undef BODY
}

/* m += (g - m)(1 - b1);  u = max(b2 u, |g|);  w -= lr m / (u + eps); the state holds m, then u */
STEP(adamax)
{
    const fe_real lr = hyper->learning_rate, eps = hyper->epsilon;
    const fe_real c1 = 1.0f - hyper->beta_1, b2 = hyper->beta_2;
#define BODY(V, I)                                            \
    {                                                         \
        V x = GET(V, g), m = AT(V, s), u = b2 * AT(V, s + d); \
        V size = CHOOSE(V, I, x < ALL(V, 0), -x, x);          \
        ASK(next_w), ASK(next_s), ASK(next_s + d);            \
        m += (x - m) * c1;                                    \
        u = MAX(V, I, u, size);                               \
        AT(V, s) = m;                                         \
        AT(V, s + d) = u;                                     \
        AT(V, w) -= lr * m / (u + eps);                       \
    }
    EACH_ROW()
#undef BODY
}

/* m and v;  w -= lr (scale_m m + scale_g g) / (sqrt(scale_v v) + eps) */
STEP(nadam)
{
    const fe_real lr = hyper->learning_rate, eps = hyper->epsilon;
    const fe_real c1 = 1.0f - hyper->beta_1, c2 = 1.0f - hyper->beta_2;
    const fe_real scale_m = hyper->scale_m, scale_g = hyper->scale_g, scale_v = hyper->scale_v;
#define BODY(V, I)                                                                   \
    {                                                                                \
        MOMENTS(V);                                                                  \
        AT(V, w) -= lr * (scale_m * m + scale_g * x) / (SQRT(V, scale_v * v) + eps); \
    }
    EACH_ROW()
#undef BODY
}

/* a' = a + g^2;  z += g + 2 l2_shrinkage w - (a'^p - a^p) / lr w;  w = (clip(z, -l1, l1) - z) / (a'^p / lr + 2 l2);
 * a = a'; the state holds a, then z */
STEP(ftrl)
{
    const fe_real per_lr = 1.0f / hyper->learning_rate, p = hyper->power;
    const fe_real l1 = hyper->l1, l2 = 2.0f * hyper->l2, shrink = 2.0f * hyper->l2_shrinkage;
#define BODY(V, I)                                                                   \
    {                                                                                \
        V x = GET(V, g), old = AT(V, s), a = old + x * x, z = AT(V, s + d), clipped; \
        ASK(next_w), ASK(next_s), ASK(next_s + d);                                   \
        AT(V, s) = a;                                                                \
        if (p == 0.5f)                                                               \
            old = SQRT(V, old), a = SQRT(V, a);                                      \
        else if (p == 0)                                                             \
            old = a = ALL(V, 1);                                                     \
        else {                                                                       \
            powers((fe_real *)&old, sizeof(V) / sizeof(fe_real), p);                 \
            powers((fe_real *)&a, sizeof(V) / sizeof(fe_real), p);                   \
        }                                                                            \
        z += x + shrink * AT(V, w) - (a - old) * per_lr * AT(V, w);                  \
        clipped = CHOOSE(V, I, z > ALL(V, l1), ALL(V, l1), z);                       \
        clipped = CHOOSE(V, I, z < ALL(V, -l1), ALL(V, -l1), clipped);               \
        AT(V, s + d) = z;                                                            \
        AT(V, w) = (clipped - z) / (a * per_lr + l2);                                \
    }
    EACH_ROW()
#undef BODY
}

/* 1, -1, or x itself where that is 0 or NaN. */
#define SIGN(V, I, x) CHOOSE(V, I, (x) > ALL(V, 0), ALL(V, 1), CHOOSE(V, I, (x) < ALL(V, 0), ALL(V, -1), x))

/* w -= lr sign(b1 m + (1 - b1) g);  m = b2 m + (1 - b2) g */
STEP(lion)
{
    const fe_real lr = hyper->learning_rate, b1 = hyper->beta_1, b2 = hyper->beta_2, c1 = 1.0f - b1, c2 = 1.0f - b2;
#define BODY(V, I)                                              \
    {                                                           \
        V x = GET(V, g), m = AT(V, s), mixed = b1 * m + c1 * x; \
        ASK(next_w), ASK(next_s);                               \
        AT(V, s) = b2 * m + c2 * x;                             \
        AT(V, w) -= lr * SIGN(V, I, mixed);                     \
    }
    EACH_ROW()
#undef BODY
}

/* LAMB's u = scale_m m / (sqrt(scale_v v) + eps) */
#define LAMB_MOVE(V, m, v) (scale_m * (m) / (SQRT(V, scale_v * (v)) + eps))

/* m and v;  sums: of w^2, of u^2 */
STEP(lamb_moments)
{
    const fe_real eps = hyper->epsilon, scale_m = hyper->scale_m, scale_v = hyper->scale_v;
    const fe_real c1 = 1.0f - hyper->beta_1, c2 = 1.0f - hyper->beta_2;
#define BODY(V, I)                \
    {                             \
        MOMENTS(V);               \
        V u = LAMB_MOVE(V, m, v); \
        LANE(V) += u * u;         \
    }
    EACH_ROW_THEN(fe_real lane[16] = {0}; sums[0] += dot_rows(w, w, d), sums[1] += sum_of_lanes(lane))
#undef BODY
}

/* w -= lr u, where m and v have moved before */
STEP(lamb)
{
    const fe_real lr = hyper->learning_rate, eps = hyper->epsilon, scale_m = hyper->scale_m, scale_v = hyper->scale_v;
#define BODY(V, I)                                               \
    {                                                            \
        ASK(next_w), ASK(next_s), ASK(next_s + d);               \
        AT(V, w) -= lr * LAMB_MOVE(V, GET(V, s), GET(V, s + d)); \
    }
    EACH_ROW()
#undef BODY
}

FE_INLINE fe_real mean_square(const fe_real *x, size_t d) { return dot_rows(x, x, d) / (fe_real)d; }

/* r = b2 r + (1 - b2)(mean(g^2) + eps), one number a row;  sums: of r before and after, then of each column's g^2 */
STEP(adafactor_squares)
{
    const fe_real eps = hyper->epsilon, b2 = hyper->beta_2, c2 = 1.0f - b2;
    (void)rows;
    for (size_t i = 0; i < n; i++) {
        const fe_real *const g = grads[i];
        fe_real *const r = states[i];
        FE_PREFETCH(states[i + FE_AHEAD_STEP], fe_near);
        sums[0] += *r;
        *r = b2 * *r + c2 * (mean_square(g, d) + eps);
        sums[1] += *r;
        add_squares(sums + 2, g, d);
    }
}

/* Adafactor's u^2, where u = g / sqrt(scale_v r columns[j]) */
STEP(adafactor_norm)
{
    const fe_real *const columns = hyper->columns;
    (void)rows;
    for (size_t i = 0; i < n; i++) {
        const fe_real *const g = grads[i];
        const fe_real r = hyper->scale_v * states[i][0];
        fe_real lane[16] = {0};
        FE_PREFETCH(states[i + FE_AHEAD_STEP], fe_near);
#define BODY(V, I)                                \
    {                                             \
        V x = GET(V, g);                          \
        LANE(V) += x * x / (r * GET(V, columns)); \
    }
        FE_COLUMNS(BODY)
#undef BODY
        sums[0] += sum_of_lanes(lane);
    }
}

/* w -= lr u;  sums: of w^2 before and after */
STEP(adafactor)
{
    const fe_real lr = hyper->learning_rate, *const columns = hyper->columns;
#define BODY(V, I)                                                 \
    {                                                              \
        ASK(next_w);                                               \
        AT(V, w) -= lr * GET(V, g) / SQRT(V, r * GET(V, columns)); \
    }
    EACH_ROW_THEN(const fe_real r = hyper->scale_v * s[0]; FE_PREFETCH(next_s, near);
                  sums[0] += dot_rows(w, w, d), sums[1] += dot_rows(w, w, d))
#undef BODY
}

/* v = b2 v + (1 - b2)(g^2 + eps);  sum: of g^2 / v */
STEP(adafactor_vector_squares)
{
    const fe_real eps = hyper->epsilon, b2 = hyper->beta_2, c2 = 1.0f - b2;
#define BODY(V, I)                                               \
    {                                                            \
        V x = GET(V, g), v = b2 * AT(V, s) + c2 * (x * x + eps); \
        ASK(next_s);                                             \
        AT(V, s) = v;                                            \
        LANE(V) += x * x / v;                                    \
    }
    EACH_ROW_THEN(fe_real lane[16] = {0}, sums[0] += sum_of_lanes(lane))
#undef BODY
}

/* w -= lr g / sqrt(v);  sums: of w^2 before and after */
STEP(adafactor_vector)
{
    const fe_real lr = hyper->learning_rate;
#define BODY(V, I)                                       \
    {                                                    \
        ASK(next_w), ASK(next_s);                        \
        AT(V, w) -= lr * GET(V, g) / SQRT(V, GET(V, s)); \
    }
    EACH_ROW_THEN(sums[0] += dot_rows(w, w, d), sums[1] += dot_rows(w, w, d))
#undef BODY
}

/* m += (g - m)(1 - b1);  v += (mean(g^2) - v)(1 - b2), one number a row;  w -= lr scale_m m / (sqrt(scale_v v) + eps); the
 * state holds m, then v: FBGEMM's PARTIAL_ROWWISE_ADAM */
STEP(partial_rowwise_adam)
{
    const fe_real lr = hyper->learning_rate * hyper->scale_m, eps = hyper->epsilon, scale_v = hyper->scale_v;
    const fe_real c1 = 1.0f - hyper->beta_1, c2 = 1.0f - hyper->beta_2;
#define BODY(V, I)                 \
    {                              \
        V m = AT(V, s);            \
        ASK(next_w), ASK(next_s);  \
        m += (GET(V, g) - m) * c1; \
        AT(V, s) = m;              \
        AT(V, w) -= rate * m;      \
    }
    EACH_ROW(const fe_real v = s[d] + (mean_square(g, d) - s[d]) * c2;
             const fe_real rate = lr / (sqrt_fe_real(scale_v * v) + eps); FE_PREFETCH(next_s + d, near); s[d] = v)
#undef BODY
}

/* w -= rate (LAMB's u + weight_decay w) */
FE_INLINE void lamb_row(fe_real *w, const fe_real *s, size_t d, const fe_hyper *hyper, fe_real rate)
{
    const fe_real eps = hyper->epsilon, scale_m = hyper->scale_m, scale_v = hyper->scale_v, decay = hyper->weight_decay;
#define BODY(V, I) AT(V, w) -= rate * (LAMB_MOVE(V, GET(V, s), GET(V, s + d)) + decay * GET(V, w));
    FE_COLUMNS(BODY)
#undef BODY
}

/* m and v;  u = LAMB's + weight_decay w;  w -= lr |w| / |u| u, with the norms of the row; the ratio is 1 where one of them
 * is 0: FBGEMM's LAMB */
STEP(rowwise_lamb)
{
    const fe_real lr = hyper->learning_rate, eps = hyper->epsilon, scale_m = hyper->scale_m, scale_v = hyper->scale_v;
    const fe_real c1 = 1.0f - hyper->beta_1, c2 = 1.0f - hyper->beta_2, decay = hyper->weight_decay;
#define BODY(V, I)                                    \
    {                                                 \
        MOMENTS(V);                                   \
        V u = LAMB_MOVE(V, m, v) + decay * GET(V, w); \
        LANE(V) += u * u;                             \
    }
    EACH_ROW_THEN(fe_real lane[16] = {0}, const fe_real norm = sqrt_fe_real(dot_rows(w, w, d));
                  const fe_real length = sqrt_fe_real(sum_of_lanes(lane));
                  lamb_row(w, s, d, hyper, norm == 0 || length == 0 ? lr : lr * (norm / length)))
#undef BODY
}

/* rate = lr scale_g |w| / (|g| + weight_decay |w|), with the norms of the row; lr where |w| or the sum is 0
 * m = mu m + rate (g + weight_decay w);  w -= m: FBGEMM's LARS_SGD */
STEP(rowwise_lars)
{
    const fe_real lr = hyper->learning_rate, mu = hyper->momentum, decay = hyper->weight_decay;
#define BODY(V, I)                                                   \
    {                                                                \
        V m = mu * AT(V, s) + rate * (GET(V, g) + decay * AT(V, w)); \
        ASK(next_w), ASK(next_s);                                    \
        AT(V, s) = m;                                                \
        AT(V, w) -= m;                                               \
    }
    EACH_ROW(const fe_real norm = sqrt_fe_real(dot_rows(w, w, d));
             const fe_real below = sqrt_fe_real(dot_rows(g, g, d)) + decay * norm;
             const fe_real rate = norm == 0 || below == 0 ? lr : lr * hyper->scale_g * norm / below)
#undef BODY
}

/* v = b2 v + (1 - b2) mean(g^2), one number a row;  w -= lr g / (sqrt(v) + eps): FBGEMM's ROWWISE_RMSPROP_AR */
STEP(rowwise_rmsprop)
{
    const fe_real lr = hyper->learning_rate, eps = hyper->epsilon, b2 = hyper->beta_2, c2 = 1.0f - b2;
#define BODY(V, I)                    \
    {                                 \
        ASK(next_w);                  \
        AT(V, w) -= rate * GET(V, g); \
    }
    EACH_ROW(const fe_real v = b2 * s[0] + c2 * mean_square(g, d); const fe_real rate = lr / (sqrt_fe_real(v) + eps);
             FE_PREFETCH(next_s, near); s[0] = v)
#undef BODY
}

/* ---- lapses: what steps without a gradient do ---------------------------------------------------------------------- */

/* What x is, of parts m and v: nothing, m, sign(m), or m / (root + eps); root is sqrt(v), v, or sqrt of the row's one v. */
enum { NO_X, X_PART, X_SIGN, X_SQRT, X_NORM, X_ROW };

/* The state has `wide` parts with a number for each column, then `narrow` (0 or 1) with one for the row. m and v: their
 * places; terms: how many of `move` count. All but the pointers are constants. */
FE_INLINE void lapse_row(fe_real *const *rows, fe_real *const *states, size_t d, const fe_hyper *hyper,
                         const fe_lapse *lapse, const int near, const int x_is, const size_t wide, const size_t narrow,
                         const size_t m, const size_t v, const int terms)
{
    fe_real *const w = rows[0], *const s = states[0];
    const fe_real *const next_w = rows[1], *const next_s = states[1];
    const fe_real fade = lapse->fade, eps = hyper->epsilon;
    const fe_real *const move = lapse->move, *const decay = lapse->decay;
    const fe_real row_root = x_is == X_ROW ? sqrt_fe_real(s[v * d]) : 0;
    /* x and r are taken before the state decays. */
#define BODY(V, I)                                                            \
    {                                                                         \
        V change = fade * GET(V, w);                                          \
        ASK(next_w);                                                          \
        for (size_t p = 0; p < wide; p++) ASK(next_s + p * d);                \
        if (x_is != NO_X) {                                                   \
            V x = GET(V, s + m * d), sum = ALL(V, move[terms - 1]);           \
            if (x_is == X_SIGN) x = SIGN(V, I, x);                            \
            if (x_is >= X_SQRT) {                                             \
                V root = ALL(V, row_root);                                    \
                if (x_is != X_ROW) root = GET(V, s + v * d);                  \
                if (x_is == X_SQRT) root = SQRT(V, root);                     \
                const V inverse = 1.0f / (root + eps), r = root * inverse;    \
                x *= inverse;                                                 \
                for (int k = terms - 2; k >= 0; k--) sum = sum * r + move[k]; \
            }                                                                 \
            change += sum * x;                                                \
        }                                                                     \
        AT(V, w) -= change;                                                   \
        for (size_t p = 0; p < wide; p++) AT(V, s + p * d) *= decay[p];       \
    }
    if (x_is != NO_X || wide || fade != 0) FE_COLUMNS(BODY)
#undef BODY
    if (narrow) s[wide * d] *= decay[wide];
}

#define LAPSE(name, ...)                                                                         \
    FE_STATIC void FE_NAME(lapse_##name)(fe_real *const *rows, fe_real *const *states, size_t d, \
                                         const fe_hyper *hyper, const fe_lapse *lapse)           \
    {                                                                                            \
        if (fe_near)                                                                             \
            lapse_row(rows, states, d, hyper, lapse, 1, __VA_ARGS__);                            \
        else                                                                                     \
            lapse_row(rows, states, d, hyper, lapse, 0, __VA_ARGS__);                            \
    }
LAPSE(fade, NO_X, 0, 0, 0, 0, 1)
LAPSE(number, NO_X, 0, 1, 0, 0, 1)
LAPSE(part, NO_X, 1, 0, 0, 0, 1)
LAPSE(parts, NO_X, 2, 0, 0, 0, 1)
LAPSE(momentum, X_PART, 1, 0, 0, 0, 1)
LAPSE(second_of_2, X_PART, 2, 0, 1, 0, 1)
LAPSE(second_of_3, X_PART, 3, 0, 1, 0, 1)
LAPSE(lion, X_SIGN, 1, 0, 0, 0, 1)
LAPSE(adam, X_SQRT, 2, 0, 0, 1, FE_TERMS)
LAPSE(amsgrad, X_SQRT, 3, 0, 0, 2, 1)
LAPSE(adamax, X_NORM, 2, 0, 0, 1, FE_TERMS)
LAPSE(partial_rowwise_adam, X_ROW, 1, 1, 0, 1, FE_TERMS)
#undef LAPSE

/* What steps without a gradient do at once, by step; the others are replayed. */
#define FE_LAPSES                                                                                                \
    [FE_STEP_sgd] = FE_NAME(lapse_fade), [FE_STEP_momentum] = FE_NAME(lapse_momentum),                           \
    [FE_STEP_nesterov] = FE_NAME(lapse_momentum), [FE_STEP_adagrad] = FE_NAME(lapse_part),                       \
    [FE_STEP_rowwise_adagrad] = FE_NAME(lapse_number), [FE_STEP_adam] = FE_NAME(lapse_adam),                     \
    [FE_STEP_amsgrad] = FE_NAME(lapse_amsgrad), [FE_STEP_rmsprop] = FE_NAME(lapse_part),                         \
    [FE_STEP_rmsprop_momentum] = FE_NAME(lapse_second_of_2), [FE_STEP_rmsprop_centered] = FE_NAME(lapse_parts),  \
    [FE_STEP_rmsprop_centered_momentum] = FE_NAME(lapse_second_of_3), [FE_STEP_adadelta] = FE_NAME(lapse_parts), \
    [FE_STEP_adamax] = FE_NAME(lapse_adamax), [FE_STEP_nadam] = FE_NAME(lapse_adam),                             \
    [FE_STEP_lion] = FE_NAME(lapse_lion), [FE_STEP_partial_rowwise_adam] = FE_NAME(lapse_partial_rowwise_adam),  \
    [FE_STEP_rowwise_lars] = FE_NAME(lapse_momentum), [FE_STEP_rowwise_rmsprop] = FE_NAME(lapse_number),
