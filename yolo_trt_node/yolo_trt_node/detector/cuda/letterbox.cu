// One camera frame into the network's input tensor: letterbox, colour order, scaling, HWC to CHW, fp32 or fp16.
//
// A thread writes one pixel of the tensor, all three channels. The arithmetic is that of OpenCV on uint8, because
// the network was trained on it and the CPU path is made of it: both give the same tensor.
//   - Bilinear (INTER_LINEAR): weights of 11 bits, products cut to 16 bits between the two passes.
//   - YUV: BT.601, limited range, coefficients of 20 bits; chroma is repeated, not interpolated.
// Where an output pixel falls between source pixels depends on the layout alone: the host computes it once
// (cuda/__init__.py), and no thread computes in double precision, which such a GPU does 32 times slower.
// No header is included, so that nvcc, NVRTC and (with the qualifiers defined away) a host compiler take the file.

// The positions in encodings.FRAME_ENCODINGS.
enum Encoding { BGR8 = 0, RGB8 = 1, BGRA8 = 2, RGBA8 = 3, MONO8 = 4, NV12 = 5, YUYV = 6 };

struct Pixel {
    int blue, green, red;
};

// Where one output coordinate falls between two source pixels, and their weights in 1/2048.
struct __align__(16) Taps {
    int first, second, first_weight, second_weight;
};

struct Pair {
    Pixel left, right;
};

static __device__ __forceinline__ int clamp(int value, int low, int high) {
    return value < low ? low : value > high ? high : value;
}

static __device__ __forceinline__ Pixel from_yuv(int y, int u, int v) {
    const int half_bit = 1 << 19;
    const int luma = (y > 16 ? y - 16 : 0) * 1220542;
    u -= 128;
    v -= 128;
    Pixel pixel;
    pixel.blue = clamp((luma + half_bit + 2116026 * u) >> 20, 0, 255);
    pixel.green = clamp((luma + half_bit - 852492 * v - 409993 * u) >> 20, 0, 255);
    pixel.red = clamp((luma + half_bit + 1673527 * v) >> 20, 0, 255);
    return pixel;
}

static __device__ __forceinline__ Pixel fetch(const unsigned char *frame, int encoding, int image_height,
                                              long long step, int x, int y) {
    const unsigned char *row = frame + y * step;
    if (encoding == NV12) {
        const unsigned char *chroma = frame + (image_height + y / 2) * step + x / 2 * 2;
        return from_yuv(row[x], chroma[0], chroma[1]);
    }
    if (encoding == YUYV) {
        const unsigned char *pair = row + x / 2 * 4;
        return from_yuv(row[2 * x], pair[1], pair[3]);
    }
    Pixel pixel;
    if (encoding == MONO8) {
        pixel.blue = pixel.green = pixel.red = row[x];
        return pixel;
    }
    const unsigned char *bytes = row + x * (encoding == BGRA8 || encoding == RGBA8 ? 4 : 3);
    const bool red_first = encoding == RGB8 || encoding == RGBA8;
    pixel.blue = bytes[red_first ? 2 : 0];
    pixel.green = bytes[1];
    pixel.red = bytes[red_first ? 0 : 2];
    return pixel;
}

static __device__ __forceinline__ Pixel from_word(unsigned word, bool red_first) {
    const int low = word & 255, high = word >> 16 & 255;
    Pixel pixel;
    pixel.blue = red_first ? high : low;
    pixel.green = word >> 8 & 255;
    pixel.red = red_first ? low : high;
    return pixel;
}

// Two neighbours of a row. Pixels of three or four bytes come with three loads of aligned words, which may begin
// three bytes before the first pixel and end eleven after it: the frame's memory is aligned and padded for that.
static __device__ __forceinline__ Pair fetch_pair(const unsigned char *frame, int encoding, int image_height,
                                                  long long step, Taps x, int y) {
    Pair pair;
    if (encoding <= RGBA8) {
        const int size = encoding == BGRA8 || encoding == RGBA8 ? 4 : 3;
        const bool red_first = encoding == RGB8 || encoding == RGBA8;
        const unsigned long long address = (unsigned long long)frame + y * step + x.first * size;
        const unsigned *words = (const unsigned *)(address & ~3ull);
        const unsigned a = words[0], b = words[1], c = words[2];
        const unsigned offset = (unsigned)address & 3;
        const unsigned left = __funnelshift_r(a, b, 8 * offset);
        const unsigned next = offset + size;
        const unsigned right = __funnelshift_r(next < 4 ? a : b, next < 4 ? b : c, 8 * (next & 3));
        pair.left = from_word(left, red_first);
        // At the far edge both are the same pixel.
        pair.right = from_word(x.second == x.first ? left : right, red_first);
        return pair;
    }
    pair.left = fetch(frame, encoding, image_height, step, x.first, y);
    pair.right = fetch(frame, encoding, image_height, step, x.second, y);
    return pair;
}

// Blend four neighbours: two along each row, then the two rows.
static __device__ __forceinline__ int blend(int a, int b, int c, int d, Taps x, Taps y) {
    const int upper = a * x.first_weight + b * x.second_weight;
    const int lower = c * x.first_weight + d * x.second_weight;
    return ((y.first_weight * (upper >> 4) >> 16) + (y.second_weight * (lower >> 4) >> 16) + 2) >> 2;
}

// IEEE half of a float, rounded to the nearest, ties to even.
static __device__ __forceinline__ unsigned short to_half(float value) {
#ifdef __CUDA_ARCH__
    unsigned short half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
#else
    const unsigned bits = __float_as_uint(value);
    const unsigned sign = bits >> 16 & 0x8000u;
    const unsigned magnitude = bits & 0x7fffffffu;
    if (magnitude >= 0x47800000u)  // beyond the largest half: infinity (or not a number)
        return sign | (magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u);
    if (magnitude < 0x38800000u)  // subnormal: adding 0.5 leaves the float's last bit worth a half's last bit
        return sign | (__float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000u);
    return sign | ((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
#endif
}

// frame         rows of pixels in device or mapped host memory, `step` bytes apart; nv12: then rows of U V pairs;
//               the memory begins at a multiple of 4 bytes and has 12 bytes more at the end
// table         taps of scaled_width columns, then of scaled_height rows
// tensor        three planes of height x width, float or half
// encoding      see Encoding
// image_*       the frame's size in pixels
// height, width the tensor's size in pixels
// scaled_*      the image's size inside the tensor; top, left: the padding before it
// rgb           1: the planes are red, green, blue; 0: blue, green, red
// blue .. red   the padding's 8-bit values
// scale         factor from 8-bit values to the tensor's
// half          1: the tensor is fp16; 0: fp32
extern "C" __global__ void letterbox(const unsigned char *frame, const Taps *table, void *tensor, int encoding,
                                     int image_height, int image_width, int step, int height, int width,
                                     int scaled_height, int scaled_width, int top, int left, int rgb, int blue,
                                     int green, int red, float scale, int half) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int line = blockIdx.y * blockDim.y + threadIdx.y;
    if (column >= width || line >= height)
        return;

    Pixel pixel = {blue, green, red};
    const int x = column - left;
    const int y = line - top;
    if (x >= 0 && x < scaled_width && y >= 0 && y < scaled_height) {
        if (scaled_width == image_width && scaled_height == image_height) {
            pixel = fetch(frame, encoding, image_height, step, x, y);
        } else {
            const Taps across = table[x];
            const Taps down = table[scaled_width + y];
            const Pair upper = fetch_pair(frame, encoding, image_height, step, across, down.first);
            const Pair lower = fetch_pair(frame, encoding, image_height, step, across, down.second);
            const Pixel a = upper.left, b = upper.right, c = lower.left, d = lower.right;
            pixel.blue = blend(a.blue, b.blue, c.blue, d.blue, across, down);
            pixel.green = blend(a.green, b.green, c.green, d.green, across, down);
            pixel.red = blend(a.red, b.red, c.red, d.red, across, down);
        }
    }

    const long long plane = (long long)height * width;
    const long long place = (long long)line * width + column;
    const float values[3] = {(rgb ? pixel.red : pixel.blue) * scale, pixel.green * scale,
                             (rgb ? pixel.blue : pixel.red) * scale};
    for (int channel = 0; channel < 3; ++channel) {
        if (half)
            ((unsigned short *)tensor)[channel * plane + place] = to_half(values[channel]);
        else
            ((float *)tensor)[channel * plane + place] = values[channel];
    }
}
