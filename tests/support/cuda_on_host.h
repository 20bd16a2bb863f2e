// What CUDA has and C++ has not, as far as the kernel needs it: its source then compiles for the host.
#include <cmath>
#include <cstring>

#define __device__
#define __global__
#define __forceinline__ inline
#define __align__(bytes) alignas(bytes)

struct Dimensions {
    unsigned x, y, z;
};
static Dimensions blockIdx, threadIdx;
extern "C" {
Dimensions gridDim, blockDim;
}

static inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)(((unsigned long long)high << 32 | low) >> (shift & 31));
}

// A launch: the kernel once for every thread of every block of the grid, one after the other.
template <auto kernel> struct Launch;
template <typename... Arguments, void (*kernel)(Arguments...)> struct Launch<kernel> {
    static void run(Arguments... arguments) {
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x)
                for (threadIdx.y = 0; threadIdx.y < blockDim.y; ++threadIdx.y)
                    for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x)
                        kernel(arguments...);
    }
};
