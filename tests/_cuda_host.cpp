// mlsm/kernels/_cuda.cu on a host: every block after the other, every phase of it thread by thread. What the barriers
// of a GPU keep apart are phases here, and within one the threads run in the order that `backwards` says: a phase
// that depended on another thread of its own would show. Compiled once for each compute dtype (-DDOUBLE); everything
// else is said at run time.

#include <cmath>
#include <cstring>
#include <vector>

static thread_local int x_type, y_type, w_type, p_type, g_type, mode, smooth;
#define X_TYPE x_type
#define Y_TYPE y_type
#define W_TYPE w_type
#define P_TYPE p_type
#define G_TYPE g_type
#define MODE mode
#define SMOOTH smooth

using std::fma;
using std::fmaf;

#include "_cuda.cu"

extern "C" {

void run(int finish, int backwards, const int *codes, i64 grid, i64 threads, PARAMETERS) {
    x_type = codes[0], y_type = codes[1], w_type = codes[2], p_type = codes[3], g_type = codes[4], mode = codes[5],
    smooth = codes[6];
    const Call c = CALL;
    const i64 groups = threads / c.lanes;
    std::vector<Sum> sums(threads);
    auto each = [&](auto phase) {
        for (int i = 0; i < threads; ++i) phase(backwards ? (int)threads - 1 - i : i);
    };
    for (i64 block = 0; block < grid; ++block) {
        for (i64 first = block * groups; first < c.tasks; first += grid * groups) {
            each([&](int t) {
                if (finish) {
                    gather_parts(c, first, t, (int)threads, sums[t]);
                } else {
                    gather(c, first, t, (int)threads, sums[t]);
                }
            });
            if (!(mode & ROWS)) continue;
            for (i64 half = c.lanes / 2; half; half /= 2) {
                each([&](int t) { fold(c, t, (int)threads, half, sums.data()); });
            }
            each([&](int t) { store_row(c, first, t, (int)threads, sums.data(), !finish && c.chunks > 1); });
        }
    }
}

// The element, bare: loss, slope and bend of n logits of one target, without weights and divisors.
void elements(i64 n, const real *x, real y, real *loss, real *slope, real *bend) {
    w_type = p_type = NONE, smooth = 0;
    Call c{};
    real derivative = 0, unused = 0;
    for (i64 i = 0; i < n; ++i) {
        mode = ROWS | SLOPE;
        element(c, x[i], y, 1, 1, 1, loss[i], derivative);
        slope[i] = derivative;
        mode = BEND;
        element(c, x[i], y, 1, 1, 1, unused, derivative);
        bend[i] = derivative;
    }
}

void functions(i64 n, const real *a, real *exp_of_minus, real *log1p_of_it) {
    for (i64 i = 0; i < n; ++i) exp_of_minus[i] = decay(a[i]), log1p_of_it[i] = log1p_of(exp_of_minus[i]);
}

void halves(float *from_half, unsigned short *to_half, const float *values, i64 n) {
    for (u32 h = 0; h < 65536; ++h) from_half[h] = half_to_float(h);
    for (i64 i = 0; i < n; ++i) to_half[i] = (unsigned short)float_to_half(values[i]);
}

void bfloats(unsigned short *to, const float *values, i64 n) {
    for (i64 i = 0; i < n; ++i) to[i] = (unsigned short)float_to_bfloat(values[i]);
}

}
