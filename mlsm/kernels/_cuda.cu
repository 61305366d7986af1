// The fused pass over device memory: row losses, their pullback for the logits, the curvature. CUDA C++ for NVRTC.
//
// Reads every operand once, in the dtype and the strides it has, and needs no header. Validates nothing, chooses
// nothing (`_cuda.py` does), takes no mask.
//
// What is compiled is said by macros, all of them constants of one compilation:
//   X_TYPE, Y_TYPE, W_TYPE, P_TYPE, G_TYPE   codes of `Type` (W_TYPE, P_TYPE: NONE where not given)
//   DOUBLE      whether the compute dtype is float64 (else float32)
//   MODE        what is wanted: the sum of ROWS, SLOPE, BEND
//   SMOOTH      whether targets are smoothed
//   THREADS     the largest block, and BLOCKS how many of them shall fit a multiprocessor at once
//
// The arithmetic is +, -, *, /, fma and comparisons, correctly rounded everywhere, and moves of bits; compiled
// without contraction (-fmad=false) it gives the same bits on every device and on a host. That is what lets a machine
// without a GPU judge it: tests/test_kernel_cupy.py includes this file in a C++ program and runs it thread by thread.
// For the same reason the kernels are cut into phases between barriers (`gather`, `fold`, `store_row`), each a plain
// function of a thread's number.

#ifdef __CUDACC__
#define DEVICE __device__ __forceinline__
#else  // a host program that includes this file, with <cmath>, <cstring> and the macros, not all of them constant
#define DEVICE static inline
#endif

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#if DOUBLE
typedef double real;
#else
typedef float real;
#endif

enum Type { NONE, F16, BF16, F32, F64, U8, U16, U32, U64, I8, I16, I32, I64, BOOL };
enum Mode { ROWS = 1, SLOPE = 2, BEND = 4 };

enum {
    CHUNK = 2048,  // classes that one group of lanes reads; of a longer row it leaves a part for the second pass
    AXES = 4  // batch axes that may have strides of their own
};

// Where everything lies. Strides count elements. Axis 0 is the innermost batch axis; rows are numbered in C order.
struct Call {
    const void *x, *y, *w, *p, *g;
    void *rows, *parts, *out;
    i64 classes, tasks, chunks, lanes, rows_first;
    i64 xc, yc, wc, pc, oc;
    i64 n[AXES], xs[AXES], ys[AXES], os[AXES], gs[AXES];
    double inverse, keep, shift;  // 1/C; the factor and the summand of a smoothed target
};

#define PARAMETERS                                                                                                   \
    const void *x, const void *y, const void *w, const void *p, const void *g, void *rows, void *parts, void *out,   \
        i64 classes, i64 tasks, i64 chunks, i64 lanes, i64 rows_first, i64 xc, i64 yc, i64 wc, i64 pc, i64 oc,       \
        i64 n0, i64 n1, i64 n2, i64 n3, i64 xs0, i64 xs1, i64 xs2, i64 xs3, i64 ys0, i64 ys1, i64 ys2, i64 ys3,      \
        i64 os0, i64 os1, i64 os2, i64 os3, i64 gs0, i64 gs1, i64 gs2, i64 gs3,                                      \
        double inverse, double keep, double shift
#define CALL                                                                                                         \
    {x, y, w, p, g, rows, parts, out, classes, tasks, chunks, lanes, rows_first, xc, yc, wc, pc, oc, {n0, n1, n2, n3}, \
     {xs0, xs1, xs2, xs3}, {ys0, ys1, ys2, ys3}, {os0, os1, os2, os3}, {gs0, gs1, gs2, gs3}, inverse, keep, shift}

// ---------------------------------------------------------------- bits

#ifdef __CUDACC__
DEVICE u32 bits_of(float v) { return __float_as_uint(v); }
DEVICE u64 bits_of(double v) { return (u64)__double_as_longlong(v); }
DEVICE float float_of(u32 v) { return __uint_as_float(v); }
DEVICE double double_of(u64 v) { return __longlong_as_double((i64)v); }
#else
template <class To, class From> static inline To same_bits(From v) {
    To to;
    std::memcpy(&to, &v, sizeof to);
    return to;
}
DEVICE u32 bits_of(float v) { return same_bits<u32>(v); }
DEVICE u64 bits_of(double v) { return same_bits<u64>(v); }
DEVICE float float_of(u32 v) { return same_bits<float>(v); }
DEVICE double double_of(u64 v) { return same_bits<double>(v); }
#endif

// Half precision by its bits, because cuda_fp16.h and cuda_bf16.h are not where every NVRTC looks.
DEVICE float half_to_float(u32 h) {
#ifdef __CUDACC__
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"((unsigned short)h));
    return v;
#else  // the same conversion, which is exact, without the instruction
    u32 magnitude = (h & 0x7fffu) << 13;
    float v = (h & 0x7c00u) == 0x7c00u ? float_of(magnitude | 0x7f800000u) : float_of(magnitude) * 0x1p112f;
    return float_of(bits_of(v) | (h & 0x8000u) << 16);
#endif
}

DEVICE u32 float_to_half(float v) {
#ifdef __CUDACC__
    unsigned short h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(v));
    return h;
#else  // the same rounding, to nearest and even, without the instruction
    u32 b = bits_of(v), sign = b >> 16 & 0x8000u, m = b & 0x7fffffffu;
    if (m > 0x7f800000u) return sign | 0x7fffu;  // NaN
    if (m >= 0x477ff000u) return sign | 0x7c00u;  // rounds to infinity
    if (m < 0x38800000u) {  // subnormal: adding 1/2 leaves a multiple of 2^-24 in the last bits
        return sign | (bits_of(float_of(m) + 0.5f) - bits_of(0.5f));
    }
    return sign | (m - 0x38000000u + 0xfffu + (m >> 13 & 1u)) >> 13;
#endif
}

DEVICE u32 float_to_bfloat(float v) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    unsigned short h;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(v));
    return h;
#else  // the same rounding without the instruction, which older devices lack
    u32 b = bits_of(v);
    return (v == v) ? (b + 0x7fffu + (b >> 16 & 1u)) >> 16 : (b >> 16 | 0x40u);
#endif
}

// ---------------------------------------------------------------- elements

DEVICE int size_of(int type) {
    return type == F64 || type == U64 || type == I64                       ? 8
           : type == F32 || type == U32 || type == I32                     ? 4
           : type == F16 || type == BF16 || type == U16 || type == I16     ? 2
                                                                           : 1;
}

DEVICE u64 raw(int type, const void *base, i64 i) {
    switch (size_of(type)) {
    case 1: return ((const unsigned char *)base)[i];
    case 2: return ((const unsigned short *)base)[i];
    case 4: return ((const u32 *)base)[i];
    default: return ((const u64 *)base)[i];
    }
}

DEVICE real decode(int type, u64 b) {
    switch (type) {
    case F16: return (real)half_to_float((u32)b);
    case BF16: return (real)float_of((u32)b << 16);
    case F32: return (real)float_of((u32)b);
    case F64: return (real)double_of(b);
    case I8: return (real)(signed char)b;
    case I16: return (real)(short)b;
    case I32: return (real)(int)b;
    case I64: return (real)(i64)b;
    case U64: return (real)b;
    case BOOL: return (real)(b != 0);  // whatever byte stands for true
    default: return (real)(u32)b;
    }
}

DEVICE u64 encode(int type, real v) {
    switch (type) {
    case F16: return float_to_half((float)v);
    case BF16: return float_to_bfloat((float)v);
    case F32: return bits_of((float)v);
    default: return bits_of((double)v);
    }
}

struct alignas(16) Words {
    u32 at[4];
};
struct alignas(8) Pair {
    u32 at[2];
};

// Whether four consecutive elements from `at` on can be moved as one piece (as two, of 8 bytes each).
DEVICE bool in_pieces(int type, const void *base, i64 at, i64 stride) {
    int piece = 4 * size_of(type);
    return stride == 1 && ((u64)base + (u64)at * size_of(type)) % (u64)(piece < 16 ? piece : 16) == 0;
}

// Elements at, at + stride, ... into v, `n` of four; the rest of v is left.
DEVICE void fetch(int type, const void *base, i64 at, i64 stride, int n, bool pieces, real *v) {
    if (pieces && n == 4) {
        u32 word[8];
        int size = size_of(type);
        const char *from = (const char *)base + at * size;
        if (size == 1) {
            word[0] = *(const u32 *)from;
        } else if (size == 2) {
            Pair two = *(const Pair *)from;
            word[0] = two.at[0], word[1] = two.at[1];
        } else {
            Words four = *(const Words *)from;
            for (int i = 0; i < 4; ++i) word[i] = four.at[i];
            if (size == 8) {
                four = *(const Words *)(from + 16);
                for (int i = 0; i < 4; ++i) word[4 + i] = four.at[i];
            }
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            u64 b = size == 1   ? word[0] >> 8 * i & 0xffu
                    : size == 2 ? word[i / 2] >> 16 * (i % 2) & 0xffffu
                    : size == 4 ? (u64)word[i]
                                : (u64)word[2 * i] | (u64)word[2 * i + 1] << 32;
            v[i] = decode(type, b);
        }
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (i < n) v[i] = decode(type, raw(type, base, at + i * stride));
    }
}

DEVICE void put(int type, void *base, i64 at, i64 stride, int n, bool pieces, const real *v) {
    int size = size_of(type);
    if (pieces && n == 4) {
        u32 word[8];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            u64 b = encode(type, v[i]);
            if (size == 2) {
                word[i / 2] = i % 2 ? word[i / 2] | (u32)b << 16 : (u32)b;
            } else if (size == 4) {
                word[i] = (u32)b;
            } else {
                word[2 * i] = (u32)b, word[2 * i + 1] = (u32)(b >> 32);
            }
        }
        char *to = (char *)base + at * size;
        if (size == 2) {
            *(Pair *)to = Pair{{word[0], word[1]}};
        } else {
            *(Words *)to = Words{{word[0], word[1], word[2], word[3]}};
            if (size == 8) *(Words *)(to + 16) = Words{{word[4], word[5], word[6], word[7]}};
        }
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (i >= n) continue;
            u64 b = encode(type, v[i]);
            if (size == 2) {
                ((unsigned short *)base)[at + i * stride] = (unsigned short)b;
            } else if (size == 4) {
                ((u32 *)base)[at + i * stride] = (u32)b;
            } else {
                ((u64 *)base)[at + i * stride] = b;
            }
        }
    }
}

// ---------------------------------------------------------------- the formula

// exp(-a) = 2^n * exp(r), r = -a - n*log(2) with log(2) in two pieces, exp(r) = 1 + (r + r^2*Q(r)) for |r| <=
// log(2)/2. log1p(e) = e + e^2*R(e) on [0, 1]. Our own and not the library's: CUDA states its errors as observed, not
// as guaranteed, and no host could check them. Q and R are the minimax fits of _numba_loops.py; the relative error of
// what they stand in for is 2^-28.3 and 2^-57.9 for exp, 2^-27.4 and 2^-59.0 for log1p. The last sum of either rounds
// once (half an ulp), and what enters it is at most 0.42 (exp) or 0.45 (log1p) of it and has rounded twice: either is
// good to 1.3 ulp. Measured on a host over every 64th float32 a: exp 0.99 ulp, log1p 1.16 ulp, and for hard targets
// the loss 1.78, the gradient 2.41 and the Hessian 3.31 ulp, where the contract allows 4, 4 and 5
// (tests/test_kernel_cupy.py repeats it, and float64 against mpmath).
#if DOUBLE
#define LOWEST 746.0
#define LOG2E 1.4426950408889634
#define SHIFTER (6755399441055744.0 + 1023 + 128)
#define LN2_HIGH 0.6931471803691238
#define LN2_LOW 1.9082149292705877e-10
DEVICE real power(real shifted) { return double_of(bits_of(shifted) << 52); }
#define POWERED 0x1p-128
DEVICE real horner_q(real r) {
    real q = 2.500008929190688e-08;
    q = fma(q, r, 2.763037807074101e-07);
    q = fma(q, r, 2.755758695695997e-06);
    q = fma(q, r, 2.4801492764037963e-05);
    q = fma(q, r, 0.00019841269505186347);
    q = fma(q, r, 0.0013888888943921912);
    q = fma(q, r, 0.008333333333495436);
    q = fma(q, r, 0.04166666666652919);
    q = fma(q, r, 0.1666666666666641);
    return fma(q, r, 0.5000000000000011);
}
DEVICE real horner_r(real e) {
    real q = -1.724146608631894e-05;
    q = fma(q, e, 0.00020633090805066898);
    q = fma(q, e, -0.0011739322638603788);
    q = fma(q, e, 0.004245247720404078);
    q = fma(q, e, -0.011031873187088226);
    q = fma(q, e, 0.022157012415927664);
    q = fma(q, e, -0.03628943520729547);
    q = fma(q, e, 0.050768289350711863);
    q = fma(q, e, -0.06338104677759317);
    q = fma(q, e, 0.07356854454874355);
    q = fma(q, e, -0.08219584645370416);
    q = fma(q, e, 0.09059938039393903);
    q = fma(q, e, -0.09993331889089016);
    q = fma(q, e, 0.11109997515654242);
    q = fma(q, e, -0.12499859334809882);
    q = fma(q, e, 0.14285701298326914);
    q = fma(q, e, -0.16666665831718738);
    q = fma(q, e, 0.19999999965264248);
    q = fma(q, e, -0.24999999999172703);
    q = fma(q, e, 0.33333333333324533);
    return fma(q, e, -0.49999999999999983);
}
DEVICE real fused(real a, real b, real c) { return fma(a, b, c); }
#else
#define LOWEST 104.0f
#define LOG2E 1.4426950408889634f
#define SHIFTER (12582912.0f + 127 + 64)
#define LN2_HIGH 0.693145751953125f
#define LN2_LOW 1.4286068203094172e-06f
DEVICE real power(real shifted) { return float_of(bits_of(shifted) << 23); }
#define POWERED 0x1p-64f
DEVICE real horner_q(real r) {
    real q = 0.001381448613103384f;
    q = fmaf(q, r, 0.008368780553090566f);
    q = fmaf(q, r, 0.04166839389522632f);
    q = fmaf(q, r, 0.16666520106827512f);
    return fmaf(q, r, 0.49999993413621063f);
}
DEVICE real horner_r(real e) {
    real q = -0.0033739365911547533f;
    q = fmaf(q, e, 0.020464828168909144f);
    q = fmaf(q, e, -0.05817676099329838f);
    q = fmaf(q, e, 0.10735419822300372f);
    q = fmaf(q, e, -0.15390024129399507f);
    q = fmaf(q, e, 0.19708424636843788f);
    q = fmaf(q, e, -0.24961388861426395f);
    q = fmaf(q, e, 0.3333081857516269f);
    return fmaf(q, e, -0.4999994542422248f);
}
DEVICE real fused(real a, real b, real c) { return fmaf(a, b, c); }
#endif

// exp(-a) for a >= 0, NaN for NaN.
DEVICE real decay(real a) {
    a = a > LOWEST ? LOWEST : a;  // exp of it is 0 already; spelled so that a NaN stays
    real shifted = fused(-a, LOG2E, SHIFTER);  // n stands in its last bits, and with it the bias of a larger power
    real n = shifted - SHIFTER;
    real r = fused(n, -LN2_LOW, fused(n, -LN2_HIGH, -a));
    real e = fused(horner_q(r), r * r, r) + 1;
    return e * power(shifted) * POWERED;  // 2^n by way of a larger power: a subnormal result is rounded once
}

DEVICE real log1p_of(real e) { return fused(horner_r(e), e * e, e); }

// One class: its loss, and its slope or bend times `scale`, as MODE wants them. The names are those of mlsm/_core.py.
DEVICE void element(const Call &c, real x, real y, real w, real p, real scale, real &loss, real &derivative) {
    bool right = x >= 0;
    real a = right ? x : -x;
    real e = decay(a);
    real ybar = 1 - y;
    if (SMOOTH) y = fused(y, (real)c.keep, (real)c.shift), ybar = fused(ybar, (real)c.keep, (real)c.shift);
    real positive = P_TYPE == NONE ? y : p * y;
    real t = right ? ybar : positive;
    real q = P_TYPE == NONE ? 1 : ybar + positive;
    if (MODE & ROWS) {
        real smooth = log1p_of(e);
        if (P_TYPE != NONE) smooth = q * smooth;
        loss = fused(t, t == 0 ? 0 : a, smooth);  // t*a is 0 where t is 0, of an infinite a too
        if (W_TYPE != NONE) loss = w * loss;
    }
    if (MODE & (SLOPE | BEND)) {
        real s = e / (1 + e);
        if (MODE & SLOPE) {
            if (P_TYPE != NONE) s = q * s;
            derivative = right ? t - s : s - t;
        } else {
            derivative = s * (1 - s);
            if (P_TYPE != NONE) derivative = q * derivative;
        }
        if (W_TYPE != NONE) derivative = w * derivative;
        derivative = derivative * scale;
    }
}

// ---------------------------------------------------------------- sums

// float32 losses are summed in trees of 8 (3u) and these in float64; float64 losses in trees of 8 and these with what
// each addition drops carried along (2u). The order depends on the number of classes alone: not on N, strides,
// dtypes, device or MODE.
struct Sum {
    double s;
#if DOUBLE
    double c;
#endif
};

DEVICE void clear(Sum &a) {
    a.s = 0;
#if DOUBLE
    a.c = 0;
#endif
}

DEVICE void add(Sum &a, double v) {
#if DOUBLE
    double s = a.s + v, back = s - a.s;
    a.c += (a.s - (s - back)) + (v - back);
    a.s = s;
#else
    a.s += v;
#endif
}

DEVICE void add(Sum &a, const Sum &b) {
    add(a, b.s);
#if DOUBLE
    a.c += b.c;
#endif
}

DEVICE double total(const Sum &a) {
#if DOUBLE
    double all = a.s + a.c;
    return all == all ? all : a.s;  // beyond an infinity what was dropped is NaN
#else
    return a.s;
#endif
}

DEVICE double run_of(const real *v) {
    real run = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
    if (run - run == 0) return run;
    double wide = 0;  // eight losses may leave the range of float32 although their mean does not
    for (int i = 0; i < 8; ++i) wide += v[i];
    return wide;
}

// ---------------------------------------------------------------- phases

// A thread's place in its block: `lanes` threads make a group, which has one row, or one chunk of it. Neighbouring
// threads are neighbouring classes, or neighbouring rows where rows lie side by side in memory.
struct Place {
    i64 groups, group, lane, apart;  // apart: from one lane of a group to the next, in threads
};

DEVICE Place place_of(const Call &c, int thread, int threads) {
    i64 groups = threads / c.lanes;
    if (c.rows_first) return Place{groups, thread % groups, thread / groups, groups};
    return Place{groups, thread / c.lanes, thread % c.lanes, 1};
}

DEVICE i64 least(i64 a, i64 b) { return a < b ? a : b; }

// The first phase: read, write the derivatives, leave this lane's sum. `first` is the task of the block's first
// group.
DEVICE void gather(const Call &c, i64 first, int thread, int threads, Sum &sum) {
    clear(sum);
    Place place = place_of(c, thread, threads);
    i64 task = first + place.group;
    if (task >= c.tasks) return;
    i64 row = c.chunks == 1 ? task : task / c.chunks;
    i64 begin = (task - row * c.chunks) * CHUNK, end = least(c.classes, begin + CHUNK);
    i64 xo = 0, yo = 0, oo = 0, go = 0, rest = row;
#pragma unroll
    for (int axis = 0; axis < AXES; ++axis) {
        if (c.n[axis] == 1) continue;
        // Axes are merged, and the last one that is left needs no division.
        i64 outer = axis + 1 == AXES || c.n[axis + 1] == 1 ? 0 : rest / c.n[axis];
        i64 i = rest - outer * c.n[axis];
        xo += i * c.xs[axis], yo += i * c.ys[axis], oo += i * c.os[axis], go += i * c.gs[axis];
        rest = outer;
    }
    real scale = 0;
    if (MODE & (SLOPE | BEND)) {
        u64 b = raw(G_TYPE, c.g, go);
        double g = G_TYPE == F64 ? double_of(b) : (double)float_of((u32)b);
        // A float64 division a lane is dear on GPUs whose float64 is slow.
        scale = DOUBLE ? (real)(g / (double)c.classes) : (real)(g * c.inverse);
    }
    bool x_pieces = in_pieces(X_TYPE, c.x, xo + begin * c.xc, c.xc);
    bool y_pieces = in_pieces(Y_TYPE, c.y, yo + begin * c.yc, c.yc);
    bool o_pieces = (MODE & (SLOPE | BEND)) && in_pieces(X_TYPE, c.out, oo + begin * c.oc, c.oc);
    bool w_pieces = W_TYPE != NONE && in_pieces(W_TYPE, c.w, begin * c.wc, c.wc);
    bool p_pieces = P_TYPE != NONE && in_pieces(P_TYPE, c.p, begin * c.pc, c.pc);
    for (i64 k = begin + 4 * place.lane; k < end; k += 8 * c.lanes) {
        real x[8], y[8], w[8], p[8], loss[8], derivative[8];
        i64 at[2] = {k, k + 4 * c.lanes};
        int n[2] = {(int)least(4, end - k), (int)(at[1] < end ? least(4, end - at[1]) : 0)};
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            fetch(X_TYPE, c.x, xo + at[h] * c.xc, c.xc, n[h], x_pieces, x + 4 * h);
            fetch(Y_TYPE, c.y, yo + at[h] * c.yc, c.yc, n[h], y_pieces, y + 4 * h);
            if (W_TYPE != NONE) fetch(W_TYPE, c.w, at[h] * c.wc, c.wc, n[h], w_pieces, w + 4 * h);
            if (P_TYPE != NONE) fetch(P_TYPE, c.p, at[h] * c.pc, c.pc, n[h], p_pieces, p + 4 * h);
        }
        if (n[0] + n[1] == 8) {  // without a branch for each, so that a thread works on several at a time
#pragma unroll
            for (int i = 0; i < 8; ++i) element(c, x[i], y[i], w[i], p[i], scale, loss[i], derivative[i]);
        } else {
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                loss[i] = 0;
                if (i % 4 < n[i / 4]) element(c, x[i], y[i], w[i], p[i], scale, loss[i], derivative[i]);
            }
        }
        if (MODE & (SLOPE | BEND)) {
#pragma unroll
            for (int h = 0; h < 2; ++h) put(X_TYPE, c.out, oo + at[h] * c.oc, c.oc, n[h], o_pieces, derivative + 4 * h);
        }
        if (MODE & ROWS) add(sum, run_of(loss));
    }
}

// The second pass over a long row: its parts, in the same shape.
DEVICE void gather_parts(const Call &c, i64 first, int thread, int threads, Sum &sum) {
    clear(sum);
    Place place = place_of(c, thread, threads);
    i64 row = first + place.group;
    if (row >= c.tasks) return;
    const double *parts = (const double *)c.parts + row * c.chunks;
    for (i64 i = place.lane; i < c.chunks; i += c.lanes) add(sum, parts[i]);
}

// Lanes half .. 2*half-1 of every group into lanes 0 .. half-1.
DEVICE void fold(const Call &c, int thread, int threads, i64 half, Sum *sums) {
    Place place = place_of(c, thread, threads);
    if (place.lane < half) add(sums[thread], sums[thread + half * place.apart]);
}

DEVICE void store_row(const Call &c, i64 first, int thread, int threads, const Sum *sums, bool part) {
    Place place = place_of(c, thread, threads);
    i64 task = first + place.group;
    if (place.lane != 0 || task >= c.tasks) return;
    double all = total(sums[thread]);
    if (part) {
        ((double *)c.parts)[task] = all;
    } else {
        ((real *)c.rows)[task] = DOUBLE ? (real)(all / (double)c.classes) : (real)(all * c.inverse);
    }
}

// ---------------------------------------------------------------- kernels

#ifdef __CUDACC__
// Every thread of a block takes every turn of the loop, so that all of them reach every barrier. A group whose lanes
// are neighbours lies in one warp, and only it has to wait.
#define KERNEL_BODY(GATHER, PART)                                                                                    \
    extern __shared__ Sum sums[];                                                                                    \
    const Call c = CALL;                                                                                             \
    const int thread = threadIdx.x, threads = blockDim.x;                                                            \
    const i64 groups = threads / c.lanes;                                                                            \
    for (i64 first = blockIdx.x * groups; first < c.tasks; first += gridDim.x * groups) {                            \
        Sum own;                                                                                                     \
        GATHER(c, first, thread, threads, own);                                                                      \
        if (!(MODE & ROWS)) continue;                                                                                \
        sums[thread] = own;                                                                                          \
        for (i64 half = c.lanes / 2; half; half /= 2) {                                                              \
            wait(c);                                                                                                 \
            fold(c, thread, threads, half, sums);                                                                    \
        }                                                                                                            \
        store_row(c, first, thread, threads, sums, PART);                                                            \
        wait(c);                                                                                                     \
    }

DEVICE void wait(const Call &c) {
    if (c.rows_first) {
        __syncthreads();
    } else {
        __syncwarp();
    }
}

#define BOUNDS __launch_bounds__(THREADS, BLOCKS)
extern "C" __global__ void BOUNDS mlsm_pass(PARAMETERS) { KERNEL_BODY(gather, c.chunks > 1) }
extern "C" __global__ void BOUNDS mlsm_finish(PARAMETERS) { KERNEL_BODY(gather_parts, false) }
#endif
