// The fused pass over device memory: row losses, their pullback for the logits, the curvature. CUDA C++ for NVRTC.
//
// Reads every operand in the dtype and the strides it has, and needs no header. Validates nothing, chooses nothing
// (`_cuda.py` does).
//
// Macros, which are constants of one compilation, select what is compiled:
//   X_TYPE, Y_TYPE, W_TYPE, P_TYPE, G_TYPE   codes of `Type` (W_TYPE, P_TYPE: NONE where not given)
//   DOUBLE      whether the compute dtype is float64 (else float32)
//   MODE        what is wanted: the sum of ROWS, GRADIENT, HESSIAN
//   SMOOTH      whether targets are smoothed
//   MASKED      whether only the classes with `m` true count
//   W_ROW       whether the weight is one number a row (or for all)
//   STAGED      whether short rows are copied into shared memory unchanged, and read there
//   THREADS     the largest block, and BLOCKS how many of them shall fit a multiprocessor at once
//
// The arithmetic is +, -, *, /, fma and comparisons, correctly rounded everywhere, and moves of bits; compiled
// without contraction (-fmad=false) it gives the same bits on every device and on a host. So a machine without a GPU
// can test it: tests/kernels/test_cupy.py includes this file in a C++ program and runs it thread by thread. For the
// same reason the kernels are cut into phases between barriers (`copy_in`, `count`, `gather`, `fold`, `store_row`,
// `copy_out`), each a plain function of a thread's number.

#ifdef __CUDACC__
#define DEVICE __device__ __forceinline__
#else  // a host program that includes this file, with <cmath>, <cstring> and the macros, not all of them constant
#define DEVICE static inline
#endif
#ifndef NOTE_READ  // a host that counts what a warp reads and how many of its lanes work defines these
#define NOTE_SITE(site)
#define NOTE_READ(type, base, at, stride, n, pieces)
#define NOTE_COPY(from, bytes)
#define NOTE_STEP(on)
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
enum Mode { ROWS = 1, GRADIENT = 2, HESSIAN = 4 };

enum {
    CHUNK = 2048,  // classes that one group of lanes reads; a second pass adds the parts of a longer row
    AXES = 4  // batch axes that may have strides of their own
};

// One logarithm serves eight losses if their coefficients of it are 1, up to a factor of the whole row.
#define GROUPED (P_TYPE == NONE && (W_TYPE == NONE || W_ROW))

// The arrays of a call. Strides count elements. Axis 0 is the innermost batch axis; rows are numbered in C order.
struct Call {
    const void *x, *y, *w, *p, *m, *g;
    void *counts, *rows, *parts, *out;
    i64 classes, tasks, chunks;
    i64 shift_lanes;  // a group has 2^shift_lanes lanes
    i64 wide;  // whether a lane takes four neighbouring classes at a time, or single ones as far apart as there are lanes
    i64 rows_first;  // whether neighbouring threads are neighbouring rows
    i64 counting;  // whether observed classes are added up, and not losses
    i64 xt, yt, wt, pt, mt;  // where the copies begin in shared memory, in bytes, or -1
    i64 xc, yc, wc, pc, mc, oc;
    i64 n[AXES], xs[AXES], ys[AXES], ws[AXES], ps[AXES], ms[AXES], os[AXES], gs[AXES];
    double inverse, keep, shift;  // 1/C; the factor and the summand of a smoothed target
};

#define EACH_AXIS(name) i64 name##0, i64 name##1, i64 name##2, i64 name##3
#define OF_AXES(name) {name##0, name##1, name##2, name##3}
#define PARAMETERS                                                                                                   \
    const void *__restrict__ x, const void *__restrict__ y, const void *__restrict__ w, const void *__restrict__ p,  \
        const void *__restrict__ m, const void *__restrict__ g, void *counts, void *rows, void *parts,               \
        void *__restrict__ out, i64 classes, i64 tasks, i64 chunks, i64 shift_lanes, i64 wide, i64 rows_first,       \
        i64 counting, i64 xt, i64 yt, i64 wt, i64 pt, i64 mt, i64 xc, i64 yc, i64 wc, i64 pc, i64 mc, i64 oc,        \
        EACH_AXIS(n), EACH_AXIS(xs), EACH_AXIS(ys), EACH_AXIS(ws), EACH_AXIS(ps), EACH_AXIS(ms), EACH_AXIS(os),      \
        EACH_AXIS(gs), double inverse, double keep, double shift
#define CALL                                                                                                         \
    {x, y, w, p, m, g, counts, rows, parts, out, classes, tasks, chunks, shift_lanes, wide, rows_first, counting,    \
     xt, yt, wt, pt, mt, xc, yc, wc, pc, mc, oc, OF_AXES(n), OF_AXES(xs), OF_AXES(ys), OF_AXES(ws), OF_AXES(ps),     \
     OF_AXES(ms), OF_AXES(os), OF_AXES(gs), inverse, keep, shift}

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

// Half precision by its bits, because not every NVRTC finds cuda_fp16.h and cuda_bf16.h.
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
    return type == F64 || type == U64 || type == I64                   ? 8
           : type == F32 || type == U32 || type == I32                 ? 4
           : type == F16 || type == BF16 || type == U16 || type == I16 ? 2
                                                                       : 1;
}

struct alignas(16) Words {
    u32 at[4];
};
struct alignas(8) Pair {
    u32 at[2];
};

// Reads of operands. Nothing writes to them while a kernel runs, so they may take the read-only path; the copies in
// shared memory may not.
#ifdef __CUDACC__
DEVICE u32 word_at(const u32 *from) { return STAGED ? *from : __ldg(from); }
DEVICE u64 word_at(const u64 *from) { return STAGED ? *from : __ldg(from); }
DEVICE u32 word_at(const unsigned char *from) { return STAGED ? *from : __ldg(from); }
DEVICE u32 word_at(const unsigned short *from) { return STAGED ? *from : __ldg(from); }
DEVICE Pair word_at(const Pair *from) {
    if (STAGED) return *from;
    uint2 v = __ldg((const uint2 *)from);
    return Pair{{v.x, v.y}};
}
DEVICE Words words_from(const void *from) {  // of device memory, always
    uint4 v = __ldg((const uint4 *)from);
    return Words{{v.x, v.y, v.z, v.w}};
}
DEVICE Words word_at(const Words *from) { return STAGED ? *from : words_from(from); }
#else
template <class T> DEVICE T word_at(const T *from) { return *from; }
DEVICE Words words_from(const void *from) { return *(const Words *)from; }
#endif

DEVICE u64 raw(int type, const void *base, i64 i) {
    switch (size_of(type)) {
    case 1: return word_at((const unsigned char *)base + i);
    case 2: return word_at((const unsigned short *)base + i);
    case 4: return word_at((const u32 *)base + i);
    default: return word_at((const u64 *)base + i);
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
    case BOOL: return b ? 1 : 0;  // true for every byte but 0
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

// Whether four consecutive elements from `base` on can be moved as one piece (as two, of 8 bytes each).
DEVICE bool in_pieces(int type, const void *base, i64 stride) {
    int piece = 4 * size_of(type);
    return stride == 1 && (u64)base % (u64)(piece < 16 ? piece : 16) == 0;
}

// Elements at, at + stride, ... into v, `n` of four; the rest of v is left.
DEVICE void fetch(int type, const void *base, i64 at, i64 stride, int n, bool pieces, real *v) {
    NOTE_READ(type, base, at, stride, n, pieces);
    if (pieces && n == 4) {
        u32 word[8];
        int size = size_of(type);
        const char *from = (const char *)base + at * size;
        if (size == 1) {
            word[0] = word_at((const u32 *)from);
        } else if (size == 2) {
            Pair two = word_at((const Pair *)from);
            word[0] = two.at[0], word[1] = two.at[1];
        } else {
            Words four = word_at((const Words *)from);
            for (int i = 0; i < 4; ++i) word[i] = four.at[i];
            if (size == 8) {
                four = word_at((const Words *)(from + 16));
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

// exp(-a) = 2^n * exp(r), r = -a - n*log(2) with log(2) in two pieces, exp(r) = 1 + (r + r^2*Q(r)) for |r| <= log(2)/2.
// log1p(e) = e + e^2*R(e) on [0, 1]. Our own and not CUDA's: CUDA states the errors of its own as observed, not as
// guaranteed, and no host could check them. Q and R are the minimax fits of _numba_loops.py. Before rounding, exp has a
// relative error of 2^-28.3 (float32) or 2^-57.9 (float64), log1p one of 2^-27.4 or 2^-59.0. The last sum of each
// rounds once (half an ulp), and its smaller term is at most 0.42 (exp) or 0.45 (log1p) of it and has rounded twice:
// each is accurate to 1.3 ulp. Measured on a host over every 64th float32 a: exp 0.99 ulp, log1p 1.16 ulp, and for hard
// targets the loss 1.78, the gradient 2.41 and the Hessian 3.31 ulp, where the contract allows 4, 4 and 5
// (tests/kernels/test_cupy.py repeats it, and float64 against mpmath).
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
    a = a > LOWEST ? LOWEST : a;  // exp(-LOWEST) is 0 already; a NaN stays NaN
    real shifted = fused(-a, LOG2E, SHIFTER);  // its last bits are n plus the bias of a larger power
    real n = shifted - SHIFTER;
    real r = fused(n, -LN2_LOW, fused(n, -LN2_HIGH, -a));
    real e = fused(horner_q(r), r * r, r) + 1;
    return e * power(shifted) * POWERED;  // 2^n by way of a larger power: a subnormal result is rounded once
}

DEVICE real log1p_of(real e) { return fused(horner_r(e), e * e, e); }

// e/d for 0 <= e <= 1 and 1 <= d <= 2, correctly rounded, from an approximation of 1/d that is off by two ulp at most.
// One Newton step gives the float nearest to 1/d (but for d = 2 - 2^-23). Its product with e differs from the quotient
// by less than an ulp, the remainder is exact, and by Markstein's theorem the last fma then rounds the exact quotient.
// If e is so small that the remainder might not be exact, d is 1. This takes six instructions instead of the ten and a
// branch of a division, with the same bits: the test checks every d.
DEVICE float quotient(float e, float d, float reciprocal) {
    reciprocal = fmaf(fmaf(-d, reciprocal, 1), reciprocal, reciprocal);
    float product = e * reciprocal;
    return fmaf(fmaf(-d, product, e), reciprocal, product);
}

// e/(1+e) for 0 <= e <= 1.
DEVICE real share(real e) {
#if defined(__CUDACC__) && !DOUBLE
    float d = 1 + e, reciprocal;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(d));  // off by one ulp at most, says its manual
    return quotient(e, d, reciprocal);
#else
    return e / (1 + e);
#endif
}

// (1 + a)(1 + b) - 1: log1p of it is log1p(a) + log1p(b). All terms are positive, so that nothing cancels.
DEVICE real joined(real a, real b) { return fused(a, b, a + b); }

// log1p(q) for 0 <= q <= 255, the range of eight joined e of at most 1. With 1 + q = 2^n * (1 + f) it is
// n*log(2) + log1p(f), and f = q*2^-n + (2^-n - 1) keeps every digit of a small q, for which n is 0.
DEVICE real log1p_of_many(real q) {
#if DOUBLE
    u64 b = bits_of(1 + q);
    real back = double_of(0x7fe0000000000000ull - (b & 0x7ff0000000000000ull));
    real n = double_of(0x4330000000000000ull | b >> 52) - (4503599627370496.0 + 1023);
#else
    u32 b = bits_of(1 + q);
    real back = float_of(0x7f000000u - (b & 0x7f800000u));
    real n = float_of(0x4b000000u | b >> 23) - (8388608.0f + 127);
#endif
    return fused(n, LN2_HIGH, fused(n, LN2_LOW, log1p_of(fused(q, back, back - 1))));
}

// One class: its part of the loss, and its gradient or Hessian times `scale`, as MODE selects them; all of them are 0
// if it is not `on`. The part is the whole loss, or, if GROUPED, its linear part, with the e whose log1p is the rest.
// The names are those of mlsm/_core.py.
DEVICE void element(
    const Call &c, real x, real y, real w, real p, real scale, bool on, real &loss, real &rest, real &derivative) {
    NOTE_STEP(on);
    bool right = x >= 0;
    real a = right ? x : -x;
    real e = decay(a);
    real ybar = 1 - y;
    if (SMOOTH) y = fused(y, (real)c.keep, (real)c.shift), ybar = fused(ybar, (real)c.keep, (real)c.shift);
    real positive = P_TYPE == NONE ? y : p * y;
    real t = right ? ybar : positive;
    real q = P_TYPE == NONE ? 1 : ybar + positive;
    if (MODE & ROWS) {
        real line = t == 0 ? 0 : a;  // t*a is 0 where t is 0, even for an infinite a
        if (GROUPED) {
            loss = on ? t * line : 0;
            rest = on ? e : 0;
        } else {
            real smooth = log1p_of(e);
            if (P_TYPE != NONE) smooth = q * smooth;
            real all = fused(t, line, smooth);
            if (W_TYPE != NONE && !W_ROW) all = w * all;
            loss = on ? all : 0;
        }
    }
    if (MODE & (GRADIENT | HESSIAN)) {
        real s = share(e);
        if (MODE & GRADIENT) {
            if (P_TYPE != NONE) s = q * s;
            derivative = right ? t - s : s - t;
        } else {
            derivative = s * (1 - s);
            if (P_TYPE != NONE) derivative = q * derivative;
        }
        if (W_TYPE != NONE && !W_ROW) derivative = w * derivative;
        derivative = on ? derivative * scale : 0;
    }
}

// ---------------------------------------------------------------- sums

// float32 losses are summed in trees of 8 (3u), and the trees in float64. float64 losses are summed in trees of 8, and
// the trees with compensation for the rounding of each addition (2u). If GROUPED, the tree has the linear parts, and
// the factors 1 + e of eight elements are multiplied in a tree of their own, three steps of 2u at most, before one
// logarithm is taken of the product. The order depends on the number of classes alone, not on N, strides, dtypes,
// device or MODE.
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
    return all == all ? all : a.s;  // if the sum is infinite, its compensation is NaN
#else
    return a.s;
#endif
}

DEVICE double run_of(const real *v, const real *rest) {
    real run = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
    real smooth = 0;
    if (GROUPED) {
        smooth = log1p_of_many(joined(
            joined(joined(rest[0], rest[1]), joined(rest[2], rest[3])),
            joined(joined(rest[4], rest[5]), joined(rest[6], rest[7]))));
        run = run + smooth;
    }
    if (run - run == 0) return run;
    double wide = smooth;  // eight losses may leave the range of float32 although their mean does not
    for (int i = 0; i < 8; ++i) wide += v[i];
    return wide;
}

// ---------------------------------------------------------------- places

// A thread's place in its block: `lanes` threads make a group, which has one row, or one chunk of it. Neighbouring
// threads are neighbouring classes, or neighbouring rows if rows are adjacent in memory.
struct Place {
    int groups, group, lane, apart;  // apart: from one lane of a group to the next, in threads
};

DEVICE Place place_of(const Call &c, int thread, int threads) {
    int by = (int)c.shift_lanes, groups = threads >> by;
    if (c.rows_first) return Place{groups, thread % groups, thread / groups, groups};
    return Place{groups, thread >> by, thread & ((1 << by) - 1), 1};
}

DEVICE i64 least(i64 a, i64 b) { return a < b ? a : b; }

// A row, or the chunk of one that a group has.
struct Task {
    i64 row, begin;
    int length;
};

DEVICE Task task_of(const Call &c, i64 task) {
    i64 row = c.chunks == 1 ? task : task / c.chunks;
    i64 begin = (task - row * c.chunks) * CHUNK;
    return Task{row, begin, (int)least(c.classes - begin, CHUNK)};
}

// The offset of a row in each operand.
struct Offsets {
    i64 x, y, w, p, m, out, g;
};

DEVICE Offsets offsets_of(const Call &c, i64 row) {
    Offsets o = {0, 0, 0, 0, 0, 0, 0};
    i64 rest = row;
#pragma unroll
    for (int axis = 0; axis < AXES; ++axis) {
        if (c.n[axis] == 1) continue;
        // Axes are merged, and the last remaining axis needs no division.
        i64 outer = axis + 1 == AXES || c.n[axis + 1] == 1 ? 0 : rest / c.n[axis];
        i64 i = rest - outer * c.n[axis];
        o.x += i * c.xs[axis], o.y += i * c.ys[axis], o.out += i * c.os[axis], o.g += i * c.gs[axis];
        if (W_TYPE != NONE) o.w += i * c.ws[axis];
        if (P_TYPE != NONE) o.p += i * c.ps[axis];
        if (MASKED) o.m += i * c.ms[axis];
        rest = outer;
    }
    return o;
}

// The classes of a task in one operand, in place or in their copy.
struct Source {
    const char *base;
    i64 stride;
    bool pieces;
};

// The distance of an operand's tile from a multiple of 16 bytes, which the copy keeps.
DEVICE i64 misalignment(const Call &c, int type, const void *base, i64 first) {
    return (i64)((u64)base + (u64)(first * c.classes * size_of(type))) & 15;
}

DEVICE Source source_of(
    const Call &c, int type, const void *base, i64 offset, i64 stride, i64 copy, char *shared, i64 first, int group) {
    Source s;
    if (STAGED && copy >= 0) {
        s.base = shared + copy + misalignment(c, type, base, first) + (i64)group * c.classes * size_of(type);
        stride = 1;
    } else {
        s.base = (const char *)base + offset * size_of(type);
    }
    s.stride = stride;
    s.pieces = c.wide && in_pieces(type, s.base, stride);
    return s;
}

// ---------------------------------------------------------------- phases

// Bytes from device memory into shared memory, or back, by all threads: 16 at a time where both ends allow it.
template <bool IN> DEVICE void copy(int type, const char *from, char *to, i64 bytes, int thread, int threads) {
    int size = size_of(type);
    i64 before = (u64)(IN ? from : to) & 15;
    bool together = ((u64)from & 15) == ((u64)to & 15);
    for (i64 word = thread; 16 * word < before + bytes; word += threads) {
        i64 at = 16 * word - before;
        bool whole = together && at >= 0 && at + 16 <= bytes;
        i64 begin = at < 0 ? 0 : at, end = least(at + 16, bytes);
        if (IN) NOTE_COPY(from + begin, end - begin);
        if (whole) {
            *(Words *)(to + at) = IN ? words_from(from + at) : *(const Words *)(from + at);
            continue;
        }
        for (i64 i = begin; i < end; i += size) {
            if (size == 1) {
                to[i] = from[i];
            } else if (size == 2) {
                *(unsigned short *)(to + i) = *(const unsigned short *)(from + i);
            } else if (size == 4) {
                *(u32 *)(to + i) = *(const u32 *)(from + i);
            } else {
                *(u64 *)(to + i) = *(const u64 *)(from + i);
            }
        }
    }
}

// The number of elements of a block's rows, which are contiguous.
DEVICE i64 tile_of(const Call &c, i64 first, int threads) {
    return least(c.tasks - first, threads >> c.shift_lanes) * c.classes;
}

DEVICE void copy_in(const Call &c, i64 first, int thread, int threads, char *shared) {
    i64 elements = tile_of(c, first, threads);
    const void *bases[5] = {c.x, c.y, c.w, c.p, c.m};
    const int types[5] = {X_TYPE, Y_TYPE, W_TYPE, P_TYPE, MASKED ? BOOL : NONE};
    const i64 copies[5] = {c.xt, c.yt, c.wt, c.pt, c.mt};
#pragma unroll
    for (int i = 0; i < 5; ++i) {
        if (types[i] == NONE || copies[i] < 0) continue;
        NOTE_SITE(i);
        int size = size_of(types[i]);
        copy<true>(types[i], (const char *)bases[i] + first * c.classes * size,
                   shared + copies[i] + misalignment(c, types[i], bases[i], first), elements * size, thread, threads);
    }
}

// Copies the derivatives, which have overwritten the logits.
DEVICE void copy_out(const Call &c, i64 first, int thread, int threads, char *shared) {
    int size = size_of(X_TYPE);
    copy<false>(X_TYPE, shared + c.xt + misalignment(c, X_TYPE, c.x, first), (char *)c.out + first * c.classes * size,
                tile_of(c, first, threads) * size, thread, threads);
}

// The number of observed classes in a lane's part of its task.
DEVICE void count(const Call &c, i64 first, int thread, int threads, char *shared, Sum &sum) {
    clear(sum);
    Place place = place_of(c, thread, threads);
    i64 number = first + place.group;
    if (number >= c.tasks) return;
    Task task = task_of(c, number);
    i64 offset = offsets_of(c, task.row).m + task.begin * c.mc;
    Source m = source_of(c, BOOL, c.m, offset, c.mc, c.mt, shared, first, place.group);
    int lanes = 1 << c.shift_lanes, found = 0;
    NOTE_SITE(6);
    for (int k = place.lane; k < task.length; k += 4 * lanes) {
        int n = (int)least(4, (task.length - k + lanes - 1) >> c.shift_lanes);
        real on[4];
        fetch(BOOL, m.base, k * m.stride, lanes * m.stride, n, false, on);
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (i < n) found += on[i] != 0;
    }
    sum.s = found;
}

// The number of observed classes of a row: counted just now, or in a pass of its own if the row is cut into chunks.
DEVICE double observed_of(const Call &c, i64 first, int thread, int threads, const Sum *sums, bool whole_rows) {
    Place place = place_of(c, thread, threads);
    i64 task = first + place.group;
    if (task >= c.tasks) return 0;
    if (c.counts) return ((const double *)c.counts)[whole_rows ? task : task_of(c, task).row];
    return total(sums[c.rows_first ? place.group : thread - place.lane]);
}

DEVICE double divisor(double observed) { return observed < 1 ? 1 : observed; }

// Where a lane reads and writes, the scale of its derivatives, and its classes.
struct Lane {
    Source x, y, w, p, m;
    char *out;
    i64 out_stride;
    bool out_pieces;
    real scale;
    int first, by, length;  // its first class, the distance to its next, and the classes of its task
};

// Eight classes of a lane: two halves of four neighbours, or eight single ones. ALL: every lane has all eight.
template <bool ALL> DEVICE void take(const Call &c, const Lane &l, int turn, Sum &sum) {
    int lanes = 1 << c.shift_lanes;
    real x[8], y[8], w[8], p[8], m[8], loss[8], rest[8], derivative[8];
    int at[2], n[2], most[2];  // the first class of each half, how many this lane has, and how many the first lane
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        int from = turn + 4 * lanes * h, left = l.length - from;
        at[h] = from + l.first;
        n[h] = most[h] = 4;
        if (!ALL) {
            n[h] = (int)least(4, c.wide ? left - l.first : (left - l.first + lanes - 1) >> c.shift_lanes);
            most[h] = (int)least(4, c.wide ? left : (left + lanes - 1) >> c.shift_lanes);
        }
        fetch(X_TYPE, l.x.base, at[h] * l.x.stride, l.by * l.x.stride, n[h], l.x.pieces, x + 4 * h);
        fetch(Y_TYPE, l.y.base, at[h] * l.y.stride, l.by * l.y.stride, n[h], l.y.pieces, y + 4 * h);
        if (W_TYPE != NONE && !W_ROW)
            fetch(W_TYPE, l.w.base, at[h] * l.w.stride, l.by * l.w.stride, n[h], l.w.pieces, w + 4 * h);
        if (P_TYPE != NONE)
            fetch(P_TYPE, l.p.base, at[h] * l.p.stride, l.by * l.p.stride, n[h], l.p.pieces, p + 4 * h);
        if (MASKED) fetch(BOOL, l.m.base, at[h] * l.m.stride, l.by * l.m.stride, n[h], l.m.pieces, m + 4 * h);
    }
    if (!ALL) {
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (i % 4 >= n[i / 4]) x[i] = y[i] = w[i] = p[i] = m[i] = 0;
    }
    // If all lanes have all classes there is no branch for each, so that a thread works on several at a time; else
    // there is a branch that all lanes take together, because lanes that diverge would wait for each other.
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        loss[i] = rest[i] = 0;
        if (!ALL && i % 4 >= most[i / 4]) continue;
        bool on = ALL || i % 4 < n[i / 4];
        if (MASKED) on = on && m[i] != 0;
        element(c, x[i], y[i], w[i], p[i], l.scale, on, loss[i], rest[i], derivative[i]);
    }
    if (MODE & (GRADIENT | HESSIAN)) {
#pragma unroll
        for (int h = 0; h < 2; ++h)
            put(X_TYPE, l.out, at[h] * l.out_stride, l.by * l.out_stride, n[h], l.out_pieces, derivative + 4 * h);
    }
    if (MODE & ROWS) add(sum, run_of(loss, rest));
}

// Reads the operands, writes the derivatives, and leaves this lane's sum. `first` is the task of the block's first
// group, `observed` the divisor of a masked row.
DEVICE void gather(
    const Call &c, i64 first, int thread, int threads, char *shared, double observed, Sum &sum) {
    clear(sum);
    Place place = place_of(c, thread, threads);
    i64 number = first + place.group;
    if (number >= c.tasks) return;
    NOTE_SITE(7);
    Task task = task_of(c, number);
    Offsets o = offsets_of(c, task.row);
    Lane l;
    l.scale = 0;
    if (MODE & (GRADIENT | HESSIAN)) {
        u64 b = raw(G_TYPE, c.g, o.g);
        double g = G_TYPE == F64 ? double_of(b) : (double)float_of((u32)b);
        // A float64 division per lane takes long on GPUs whose float64 is slow.
        l.scale = MASKED ? (real)(g / divisor(observed)) : DOUBLE ? (real)(g / (double)c.classes) : (real)(g * c.inverse);
        if (W_TYPE != NONE && W_ROW) l.scale = decode(W_TYPE, raw(W_TYPE, c.w, o.w)) * l.scale;
    }
    l.x = source_of(c, X_TYPE, c.x, o.x + task.begin * c.xc, c.xc, c.xt, shared, first, place.group);
    l.y = source_of(c, Y_TYPE, c.y, o.y + task.begin * c.yc, c.yc, c.yt, shared, first, place.group);
    if (W_TYPE != NONE && !W_ROW)
        l.w = source_of(c, W_TYPE, c.w, o.w + task.begin * c.wc, c.wc, c.wt, shared, first, place.group);
    if (P_TYPE != NONE) l.p = source_of(c, P_TYPE, c.p, o.p + task.begin * c.pc, c.pc, c.pt, shared, first, place.group);
    if (MASKED) l.m = source_of(c, BOOL, c.m, o.m + task.begin * c.mc, c.mc, c.mt, shared, first, place.group);
    if (STAGED) {  // over the logits, which only this lane has read
        l.out = (char *)l.x.base, l.out_stride = 1, l.out_pieces = l.x.pieces;
    } else {
        l.out = (char *)c.out + (o.out + task.begin * c.oc) * size_of(X_TYPE), l.out_stride = c.oc;
        l.out_pieces = c.wide && in_pieces(X_TYPE, l.out, l.out_stride);
    }
    int lanes = 1 << c.shift_lanes;
    l.first = c.wide ? 4 * place.lane : place.lane, l.by = c.wide ? 1 : lanes, l.length = task.length;
    int turn = 0;
    for (; turn + 8 * lanes <= task.length; turn += 8 * lanes) take<true>(c, l, turn, sum);
    if (turn < task.length) take<false>(c, l, turn, sum);
}

// The second pass over a long row: adds its parts in the same way.
DEVICE void gather_parts(const Call &c, i64 first, int thread, int threads, Sum &sum) {
    clear(sum);
    Place place = place_of(c, thread, threads);
    i64 row = first + place.group;
    if (row >= c.tasks) return;
    const double *parts = (const double *)c.parts + row * c.chunks;
    for (i64 i = place.lane; i < c.chunks; i += 1ll << c.shift_lanes) add(sum, parts[i]);
}

// Adds lanes half .. 2*half-1 of every group to lanes 0 .. half-1.
DEVICE void fold(const Call &c, int thread, int threads, int half, Sum *sums) {
    Place place = place_of(c, thread, threads);
    if (place.lane < half) add(sums[thread], sums[thread + half * place.apart]);
}

DEVICE void store_row(const Call &c, i64 first, int thread, int threads, const Sum *sums, bool part, double observed) {
    Place place = place_of(c, thread, threads);
    i64 task = first + place.group;
    if (place.lane != 0 || task >= c.tasks) return;
    double all = total(sums[thread]);
    if (part) {
        ((double *)c.parts)[task] = all;
    } else if (c.counting) {
        ((double *)c.counts)[task] = all;
    } else {
        // A weight of the row multiplies its sum; if the row has no observed class, it is ignored, even if it is NaN.
        if (W_TYPE != NONE && W_ROW && !(MASKED && observed < 1))
            all = all * (double)decode(W_TYPE, raw(W_TYPE, c.w, offsets_of(c, task).w));
        ((real *)c.rows)[task] =
            MASKED ? (real)(all / divisor(observed)) : DOUBLE ? (real)(all / (double)c.classes) : (real)(all * c.inverse);
    }
}

// ---------------------------------------------------------------- kernels

#ifdef __CUDACC__
DEVICE void wait(const Call &c) {  // for the lanes of a group, which are neighbours in a warp, or of a block
    if (c.rows_first) {
        __syncthreads();
    } else {
        __syncwarp();
    }
}

DEVICE void fold_all(const Call &c, int thread, int threads, const Sum &own, Sum *sums) {
    sums[thread] = own;
    for (int half = 1 << c.shift_lanes >> 1; half; half >>= 1) {
        wait(c);
        fold(c, thread, threads, half, sums);
    }
}

// Every thread of a block runs every iteration of the loop, so that all of them reach every barrier.
#define KERNEL_BEGIN                                                                                                 \
    extern __shared__ Words shared_words[];                                                                          \
    Sum *sums = (Sum *)shared_words, own;                                                                            \
    const Call c = CALL;                                                                                             \
    const int thread = threadIdx.x, threads = blockDim.x;                                                            \
    const i64 groups = threads >> c.shift_lanes;                                                                     \
    for (i64 first = blockIdx.x * groups; first < c.tasks; first += gridDim.x * groups) {
#define KERNEL_END                                                                                                   \
        wait(c);                                                                                                     \
    }

#define BOUNDS __launch_bounds__(THREADS, BLOCKS)
extern "C" __global__ void BOUNDS mlsm_pass(PARAMETERS) {
    KERNEL_BEGIN
        char *shared = (char *)shared_words;
        double observed = 1;
        if (STAGED) {
            copy_in(c, first, thread, threads, shared);
            __syncthreads();
        }
        if (MASKED) {
            if (!c.counts) {
                count(c, first, thread, threads, shared, own);
                fold_all(c, thread, threads, own, sums);
                wait(c);
            }
            observed = observed_of(c, first, thread, threads, sums, false);
            wait(c);
        }
        gather(c, first, thread, threads, shared, observed, own);
        if (MODE & ROWS) {
            fold_all(c, thread, threads, own, sums);
            store_row(c, first, thread, threads, sums, c.chunks > 1, observed);
        }
        if (STAGED) {
            __syncthreads();
            if (MODE & (GRADIENT | HESSIAN)) {
                copy_out(c, first, thread, threads, shared);
                __syncthreads();
            }
        }
    KERNEL_END
}
extern "C" __global__ void BOUNDS mlsm_count(PARAMETERS) {
    KERNEL_BEGIN
        count(c, first, thread, threads, 0, own);
        fold_all(c, thread, threads, own, sums);
        store_row(c, first, thread, threads, sums, true, 1);
    KERNEL_END
}
extern "C" __global__ void BOUNDS mlsm_finish(PARAMETERS) {
    KERNEL_BEGIN
        gather_parts(c, first, thread, threads, own);
        double observed = 1;
        if (MASKED && !c.counting) observed = observed_of(c, first, thread, threads, sums, true);
        fold_all(c, thread, threads, own, sums);
        store_row(c, first, thread, threads, sums, false, observed);
    KERNEL_END
}
#endif
