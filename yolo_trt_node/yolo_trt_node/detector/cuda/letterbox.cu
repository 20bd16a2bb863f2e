// One camera frame into the network's input tensor: letterbox, colour order, scaling, HWC to CHW, fp32 or fp16.
//
// A thread writes one pixel of the tensor, all three channels. The arithmetic is that of OpenCV on uint8
// (INTER_LINEAR with weights of 11 bits; YUV by BT.601 with coefficients of 20 bits), because the network was
// trained on it and because the CPU path is made of it: both give the same tensor. It needs no header, so that
// nvcc, NVRTC and a host compiler all take it as it stands.

// The numbers are the positions in frames.ENCODINGS.
enum Encoding { BGR8 = 0, RGB8 = 1, BGRA8 = 2, RGBA8 = 3, MONO8 = 4, NV12 = 5, YUYV = 6 };

struct Pixel {
    int blue, green, red;
};

// frame         rows of pixels in device or mapped host memory, `step` bytes apart; nv12: then rows of U V pairs
// tensor        three planes of height x width, float or half
// encoding      see Encoding
// image_*       the frame's size in pixels
// height, width the tensor's size in pixels
// scaled_*      the image's size inside the tensor; top, left: the padding before it
// rgb           1: the planes are red, green, blue; 0: blue, green, red
// blue..red     the padding's 8-bit values
// scale         factor from 8-bit values to the tensor's
// half          1: the tensor is fp16; 0: fp32
extern "C" __global__ void letterbox(const unsigned char *frame, void *tensor, int encoding, int image_height,
                                     int image_width, int step, int height, int width, int scaled_height,
                                     int scaled_width, int top, int left, int rgb, int blue, int green, int red,
                                     float scale, int half) {
}
