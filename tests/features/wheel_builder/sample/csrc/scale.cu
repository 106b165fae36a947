#include <cuda_runtime.h>

__global__ void scale_kernel(int n, float a, float* x) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] *= a;
}

cudaError_t scale_launch(int n, float a, float* x) {
    scale_kernel<<<(n + 255) / 256, 256>>>(n, a, x);
    return cudaGetLastError();
}
