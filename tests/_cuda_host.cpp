// mlsm/kernels/_cuda.cu on a host: one block after the other, and each phase of a block thread by thread. A phase is
// the code between two barriers of the GPU. Within a phase, `backwards` decides the order of the threads, so that a
// dependence on another thread of the phase would show. Compiled once for each compute dtype (-DDOUBLE); everything
// else is an argument at run time.

#include <cmath>
#include <cstring>
#include <vector>

static thread_local int x_type, y_type, w_type, p_type, g_type, mode, smooth, masked, w_row, staged;
#define X_TYPE x_type
#define Y_TYPE y_type
#define W_TYPE w_type
#define P_TYPE p_type
#define G_TYPE g_type
#define MODE mode
#define SMOOTH smooth
#define MASKED masked
#define W_ROW w_row
#define STAGED staged

using std::fma;
using std::fmaf;

#if COUNTING
// The reads of a warp. Its lanes take the same branches, so the k-th read of a site is one instruction of all lanes:
// each of its bytes is in a sector of 32, and each element that is computed takes a step of the whole warp.
#include <algorithm>
#include <tuple>

static std::vector<std::tuple<int, int, int, unsigned long long>> touched;  // site, number, part, sector
static const char *shared_from, *shared_to;
static int site_now, number_now, steps_now;
static long long useful_bytes, sectors, useful_steps, warp_steps;

static void touch(int part, const char *from, long long bytes) {
    if (from >= shared_from && from < shared_to) return;
    useful_bytes += bytes;
    for (auto at = (unsigned long long)from / 32; at <= ((unsigned long long)from + bytes - 1) / 32; ++at)
        touched.emplace_back(site_now, number_now, part, at);
}
static void note_read(int size, const char *base, long long at, long long stride, int n, bool pieces) {
    if (pieces && n == 4) {
        touch(0, base + at * size, 4 * size);
    } else {
        for (int i = 0; i < n; ++i) touch(1 + i, base + (at + i * stride) * size, size);
    }
    ++number_now;
}
#define NOTE_SITE(k) site_now = k, number_now = 0
#define NOTE_READ(type, base, at, stride, n, pieces) note_read(size_of(type), (const char *)base, at, stride, n, pieces)
#define NOTE_COPY(from, bytes) touch(0, from, bytes), ++number_now
#define NOTE_STEP(on) ++steps_now, useful_steps += on

static void end_of_warp(int most) {
    std::sort(touched.begin(), touched.end());
    sectors += std::unique(touched.begin(), touched.end()) - touched.begin();
    touched.clear();
    warp_steps += 32 * most;
}
#endif

#include "_cuda.cu"

extern "C" {

void run(int kernel, int backwards, const int *codes, i64 grid, i64 threads, i64 shared_bytes, PARAMETERS) {
    x_type = codes[0], y_type = codes[1], w_type = codes[2], p_type = codes[3], g_type = codes[4], mode = codes[5],
    smooth = codes[6], masked = codes[7], w_row = codes[8], staged = codes[9];
    const Call c = CALL;
    const i64 groups = threads >> c.shift_lanes;
    std::vector<Sum> own(threads), sums(threads);
    std::vector<double> observed(threads, 1);
    std::vector<Words> words(shared_bytes / 16 + 1);
    char *shared = (char *)words.data();
    const int size = (int)threads;
    auto each = [&](auto phase) {
#if COUNTING
        int most = 0;
        shared_from = shared, shared_to = shared + shared_bytes;
        for (int i = 0; i < threads; ++i) {
            number_now = steps_now = 0;
            phase(i);
            most = std::max(most, steps_now);
            if (i % 32 == 31 || i + 1 == threads) end_of_warp(most), most = 0;
        }
#else
        for (int i = 0; i < threads; ++i) phase(backwards ? (int)threads - 1 - i : i);
#endif
    };
    auto fold_all = [&] {
        sums = own;
        for (int half = 1 << c.shift_lanes >> 1; half; half >>= 1) {
            each([&](int t) { fold(c, t, size, half, sums.data()); });
        }
    };
    for (i64 block = 0; block < grid; ++block) {
        for (i64 first = block * groups; first < c.tasks; first += grid * groups) {
            auto observe = [&](bool whole_rows) {
                each([&](int t) { observed[t] = observed_of(c, first, t, size, sums.data(), whole_rows); });
            };
            auto store = [&](bool part) {
                each([&](int t) { store_row(c, first, t, size, sums.data(), part, observed[t]); });
            };
            if (kernel == 0) {
                if (staged) each([&](int t) { copy_in(c, first, t, size, shared); });
                if (masked) {
                    if (!c.counts) {
                        each([&](int t) { count(c, first, t, size, shared, own[t]); });
                        fold_all();
                    }
                    observe(false);
                }
                each([&](int t) { gather(c, first, t, size, shared, observed[t], own[t]); });
                if (mode & ROWS) fold_all(), store(c.chunks > 1);
                if (staged && mode & (GRADIENT | HESSIAN)) each([&](int t) { copy_out(c, first, t, size, shared); });
            } else if (kernel == 1) {
                each([&](int t) { gather_parts(c, first, t, size, own[t]); });
                if (masked && !c.counting) observe(true);
                fold_all(), store(false);
            } else {
                each([&](int t) { count(c, first, t, size, shared, own[t]); });
                fold_all(), store(true);
            }
        }
    }
}

#if COUNTING
void counted(i64 *out) {  // and resets the counters
    out[0] = useful_bytes, out[1] = 32 * sectors, out[2] = useful_steps, out[3] = warp_steps;
    useful_bytes = sectors = useful_steps = warp_steps = 0;
}
#endif

// The bare element: loss, gradient and hessian of n logits with one target, without weights and divisors.
void elements(i64 n, const real *x, real y, real *loss, real *gradient, real *hessian) {
    w_type = p_type = NONE, smooth = masked = 0;
    Call c{};
    real derivative = 0, unused = 0;
    for (i64 i = 0; i < n; ++i) {
        real share[8] = {}, rest[8] = {};
        mode = ROWS | GRADIENT;
        element(c, x[i], y, 1, 1, 1, true, share[0], rest[0], derivative);
        loss[i] = (real)run_of(share, rest);
        gradient[i] = derivative;
        mode = HESSIAN;
        element(c, x[i], y, 1, 1, 1, true, unused, unused, derivative);
        hessian[i] = derivative;
    }
}

void functions(i64 n, const real *a, real *exp_of_minus, real *log1p_of_it) {
    for (i64 i = 0; i < n; ++i) exp_of_minus[i] = decay(a[i]), log1p_of_it[i] = log1p_of_many(exp_of_minus[i]);
}

// log1p of eight numbers combined: (1 + e0)...(1 + e7) - 1.
void together(i64 n, const real *e, real *out) {
    w_type = p_type = NONE;
    const real nothing[8] = {};
    for (i64 i = 0; i < n; ++i) out[i] = (real)run_of(nothing, e + 8 * i);
}

// How many of n quotients differ from e/d, computed by a reciprocal that is up to `off` ulp wrong.
i64 wrong_quotients(i64 n, const float *e, const float *d, int off) {
    i64 wrong = 0;
    for (i64 i = 0; i < n; ++i) {
        for (int k = -off; k <= off; ++k) {
            float reciprocal = float_of(bits_of(1 / d[i]) + k);
            wrong += quotient(e[i], d[i], reciprocal) != e[i] / d[i];
        }
    }
    return wrong;
}

void halves(float *from_half, unsigned short *to_half, const float *values, i64 n) {
    for (u32 h = 0; h < 65536; ++h) from_half[h] = half_to_float(h);
    for (i64 i = 0; i < n; ++i) to_half[i] = (unsigned short)float_to_half(values[i]);
}

void bfloats(unsigned short *to, const float *values, i64 n) {
    for (i64 i = 0; i < n; ++i) to[i] = (unsigned short)float_to_bfloat(values[i]);
}

}
