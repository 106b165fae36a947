// The functions of flash_attn.h, by torch's attention operators.
//
// Arguments are checked first, so that only values that torch's kernels can take reach them. Streams and devices go through
// c10's device-neutral guards: no header of CUDA or ROCm is needed, and a torch without GPUs gives the same library.

#include "flash_attn.h"

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_scaled_dot_product_flash_attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_backward.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/Exception.h>
#include <torch/csrc/api/include/torch/version.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <limits>
#include <new>
#include <optional>
#include <tuple>
#include <type_traits>

namespace {

constexpr int64_t GPU_LARGEST_HEAD = 256;
constexpr int64_t GPU_HEAD_MULTIPLE = 8;
constexpr uintptr_t GPU_ALIGNMENT = 16;
// The oldest torch that was tried. Where a kernel knows no groups of heads, it reads beyond the keys.
constexpr bool CPU_SHARES_KEYS = TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 13);

static_assert(std::is_standard_layout_v<flash_attn_params>);

// A plain array: recording an error must not need memory.
thread_local std::array<char, 1024> last_error{};

struct Argument {
  const char* name;
  const void* address;
  bool statistic = false;  // logsumexp, which has its own type
};

template <typename First, typename... Values>
int fail(int status, const char* format, First first, Values... values) noexcept {
  std::snprintf(last_error.data(), last_error.size(), format, first, values...);
  return status;
}

int fail(int status, const char* words) noexcept {
  return fail(status, "%s", words);
}

// The allocator of host memory throws the same type as every other refusal of torch, and differs in its words alone.
bool is_allocation_failure(const c10::Error& error) {
  return std::strstr(error.what_without_backtrace(), "can't allocate memory") != nullptr;
}

std::optional<at::ScalarType> scalar_type(int32_t dtype) {
  switch (dtype) {
    case FLASH_ATTN_FLOAT16:
      return at::kHalf;
    case FLASH_ATTN_BFLOAT16:
      return at::kBFloat16;
    case FLASH_ATTN_FLOAT32:
      return at::kFloat;
    case FLASH_ATTN_FLOAT64:
      return at::kDouble;
    default:
      return std::nullopt;
  }
}

bool on_gpu(const flash_attn_params& params) {
  return params.device == FLASH_ATTN_GPU;
}

at::Device device_of(const flash_attn_params& params) {
  return on_gpu(params) ? at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(params.device_index)) : at::Device(at::kCPU);
}

at::ScalarType statistic_type(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

int64_t key_length(const flash_attn_params& params) {
  return params.key_length == 0 ? params.length : params.key_length;
}

int64_t key_heads(const flash_attn_params& params) {
  return params.key_heads == 0 ? params.heads : params.key_heads;
}

using Sizes = std::array<std::tuple<const char*, int64_t>, 4>;

int check_product(const Sizes& sizes) {
  int64_t bytes = sizeof(double);  // of the widest type: a limit that is the same for all
  for (const auto& [name, size] : sizes) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) {
      return fail(FLASH_ATTN_OVERFLOW, "%s %lld makes a tensor larger than can be addressed", name,
                  static_cast<long long>(size));
    }
  }
  return FLASH_ATTN_OK;
}

int check_sizes(const flash_attn_params& params) {
  const Sizes query{
      {{"batch", params.batch}, {"length", params.length}, {"heads", params.heads}, {"head_size", params.head_size}}};
  for (const auto& [name, size] : query) {
    if (size < 1) {
      return fail(FLASH_ATTN_BAD_SIZE, "%s is %lld, which is below 1", name, static_cast<long long>(size));
    }
  }
  const Sizes others{{{"key_length", params.key_length},
                      {"key_heads", params.key_heads},
                      {"mask_batch", params.mask_batch},
                      {"mask_heads", params.mask_heads}}};
  for (const auto& [name, size] : others) {
    if (size < 0) {
      return fail(FLASH_ATTN_BAD_SIZE, "%s is %lld, which is below 0", name, static_cast<long long>(size));
    }
  }
  if (const int status = check_product(query); status != FLASH_ATTN_OK) {
    return status;
  }
  return check_product({{{"batch", params.batch},
                         {"key_length", key_length(params)},
                         {"key_heads", key_heads(params)},
                         {"head_size", params.head_size}}});
}

int check_heads(const flash_attn_params& params) {
  const int64_t own = key_heads(params);
  if (params.heads % own != 0) {
    return fail(FLASH_ATTN_BAD_KEY_HEADS, "%lld heads cannot share %lld key_heads equally",
                static_cast<long long>(params.heads), static_cast<long long>(own));
  }
  if (own != params.heads && !on_gpu(params) && !CPU_SHARES_KEYS) {
    return fail(FLASH_ATTN_BAD_KEY_HEADS, "key_heads is %lld; the CPU kernel of torch %s needs as many as heads",
                static_cast<long long>(own), TORCH_VERSION);
  }
  return FLASH_ATTN_OK;
}

int check_mask(const flash_attn_params& params) {
  if (params.mask == nullptr) {
    return FLASH_ATTN_OK;
  }
  if (on_gpu(params)) {
    return fail(FLASH_ATTN_BAD_MASK, "mask is not null; torch's flash kernels of a GPU have none");
  }
  const std::array<std::tuple<const char*, int64_t, int64_t>, 2> sizes{
      {{"batch", params.mask_batch, params.batch}, {"heads", params.mask_heads, params.heads}}};
  for (const auto& [name, size, whole] : sizes) {
    if (size > 1 && size != whole) {
      return fail(FLASH_ATTN_BAD_MASK, "mask_%s is %lld, neither 1 nor %lld", name, static_cast<long long>(size),
                  static_cast<long long>(whole));
    }
  }
  return check_product({{{"mask_batch", std::max<int64_t>(params.mask_batch, 1)},
                         {"mask_heads", std::max<int64_t>(params.mask_heads, 1)},
                         {"length", params.length},
                         {"key_length", key_length(params)}}});
}

int check_device(const flash_attn_params& params) {
  if (params.device == FLASH_ATTN_CPU) {
    if (params.device_index != 0) {
      return fail(FLASH_ATTN_BAD_DEVICE, "device_index is %d; a CPU has index 0", params.device_index);
    }
    if (params.stream != nullptr) {
      return fail(FLASH_ATTN_BAD_STREAM, "stream is %p; a CPU has none", params.stream);
    }
    return FLASH_ATTN_OK;
  }
  if (!on_gpu(params)) {
    return fail(FLASH_ATTN_BAD_DEVICE, "device is %d, which names none", params.device);
  }
  const int count =
      c10::impl::hasDeviceGuardImpl(at::kCUDA) ? c10::impl::getDeviceGuardImpl(at::kCUDA)->deviceCount() : 0;
  if (params.device_index < 0 || params.device_index >= count) {
    return fail(FLASH_ATTN_BAD_DEVICE, "device_index is %d, and this torch sees %d GPUs", params.device_index, count);
  }
  // torch keeps its own streams under odd identifiers; CUDA's named streams (legacy, per thread) are the constants 1 and 2.
  const auto stream = reinterpret_cast<uintptr_t>(params.stream);
  if (stream % 2 != 0 || stream == 2) {
    return fail(FLASH_ATTN_BAD_STREAM, "stream is %p, which is no stream that was created; null is the default stream",
                params.stream);
  }
  if (params.head_size > GPU_LARGEST_HEAD || params.head_size % GPU_HEAD_MULTIPLE != 0) {
    return fail(FLASH_ATTN_BAD_HEAD_SIZE, "head_size is %lld; a GPU needs a multiple of %lld up to %lld",
                static_cast<long long>(params.head_size), static_cast<long long>(GPU_HEAD_MULTIPLE),
                static_cast<long long>(GPU_LARGEST_HEAD));
  }
  if (params.dtype != FLASH_ATTN_FLOAT16 && params.dtype != FLASH_ATTN_BFLOAT16) {
    return fail(FLASH_ATTN_BAD_DTYPE, "dtype is %d; a GPU needs float16 or bfloat16", params.dtype);
  }
  return FLASH_ATTN_OK;
}

int check(const flash_attn_params* params, std::initializer_list<Argument> arguments) {
  if (params == nullptr) {
    return fail(FLASH_ATTN_BAD_STRUCT, "params is null");
  }
  if (params->struct_size != sizeof(flash_attn_params)) {
    return fail(FLASH_ATTN_BAD_STRUCT, "struct_size is %zu; this library's has %zu", params->struct_size,
                sizeof(flash_attn_params));
  }
  if (const int status = check_sizes(*params); status != FLASH_ATTN_OK) {
    return status;
  }
  const auto type = scalar_type(params->dtype);
  if (!type) {
    return fail(FLASH_ATTN_BAD_DTYPE, "dtype is %d, which names none", params->dtype);
  }
  if (params->layout != FLASH_ATTN_BATCH_LENGTH_HEADS && params->layout != FLASH_ATTN_BATCH_HEADS_LENGTH) {
    return fail(FLASH_ATTN_BAD_LAYOUT, "layout is %d, which names none", params->layout);
  }
  if (params->causal != 0 && params->causal != 1) {
    return fail(FLASH_ATTN_BAD_CAUSAL, "causal is %d, neither 0 nor 1", params->causal);
  }
  if (params->causal == 1 && key_length(*params) != params->length) {
    return fail(FLASH_ATTN_BAD_CAUSAL, "causal is 1 with length %lld and key_length %lld; pass a mask",
                static_cast<long long>(params->length), static_cast<long long>(params->key_length));
  }
  if (!std::isfinite(params->scale) || params->scale < 0) {
    return fail(FLASH_ATTN_BAD_SCALE, "scale is %g; it must be finite and not negative", params->scale);
  }
  if (const int status = check_device(*params); status != FLASH_ATTN_OK) {
    return status;
  }
  if (const int status = check_heads(*params); status != FLASH_ATTN_OK) {
    return status;
  }
  if (const int status = check_mask(*params); status != FLASH_ATTN_OK) {
    return status;
  }
  const auto check_alignment = [&](const Argument& argument) {
    const auto element = c10::elementSize(argument.statistic ? statistic_type(*type) : *type);
    const uintptr_t needed = on_gpu(*params) && !argument.statistic ? GPU_ALIGNMENT : element;
    if (reinterpret_cast<uintptr_t>(argument.address) % needed != 0) {
      return fail(FLASH_ATTN_BAD_ALIGNMENT, "%s is at %p, which is no multiple of %zu", argument.name, argument.address,
                  static_cast<size_t>(needed));
    }
    return static_cast<int>(FLASH_ATTN_OK);
  };
  for (const Argument& argument : arguments) {
    if (argument.address == nullptr) {
      return fail(FLASH_ATTN_NULL_POINTER, "%s is null", argument.name);
    }
    if (const int status = check_alignment(argument); status != FLASH_ATTN_OK) {
      return status;
    }
  }
  return check_alignment({"mask", params->mask, true});
}

// Throws where the address is no memory that the GPUs' driver knows.
int check_memory(const flash_attn_params& params, std::initializer_list<Argument> arguments) {
  if (!on_gpu(params)) {
    return FLASH_ATTN_OK;
  }
  for (const Argument& argument : arguments) {
    try {
      const auto found = at::globalContext().getDeviceFromPtr(const_cast<void*>(argument.address), at::kCUDA);
      if (found.index() != params.device_index) {
        return fail(FLASH_ATTN_WRONG_MEMORY, "%s is on GPU %d, not on %d", argument.name, static_cast<int>(found.index()),
                    params.device_index);
      }
    } catch (const c10::Error& error) {
      return fail(FLASH_ATTN_WRONG_MEMORY, "%s: %s", argument.name, error.what_without_backtrace());
    }
  }
  return FLASH_ATTN_OK;
}

// Runs checked work: no exception leaves it. Work of torch that does not fit into memory has a status of its own.
template <typename Work>
int guarded(const flash_attn_params* params, std::initializer_list<Argument> arguments, Work work) noexcept {
  try {
    last_error[0] = '\0';
    if (const int status = check(params, arguments); status != FLASH_ATTN_OK) {
      return status;
    }
    if (const int status = check_memory(*params, arguments); status != FLASH_ATTN_OK) {
      return status;
    }
    const c10::InferenceMode no_gradients;
    std::optional<c10::StreamGuard> guard;
    if (on_gpu(*params)) {
      // A stream that torch did not create has its address as identifier, the default stream has 0.
      const auto identifier = static_cast<c10::StreamId>(reinterpret_cast<intptr_t>(params->stream));
      guard.emplace(c10::Stream(c10::Stream::UNSAFE, device_of(*params), identifier));
    }
    work();
    return FLASH_ATTN_OK;
  } catch (const std::bad_alloc&) {
    return fail(FLASH_ATTN_NO_MEMORY, "the host has too little free memory");
  } catch (const c10::OutOfMemoryError& error) {
    return fail(FLASH_ATTN_NO_MEMORY, error.what_without_backtrace());
  } catch (const c10::Error& error) {
    const int status = is_allocation_failure(error) ? FLASH_ATTN_NO_MEMORY : FLASH_ATTN_TORCH_ERROR;
    return fail(status, error.what_without_backtrace());
  } catch (const std::exception& error) {
    return fail(FLASH_ATTN_TORCH_ERROR, error.what());
  } catch (...) {
    return fail(FLASH_ATTN_TORCH_ERROR, "an exception of an unknown type");
  }
}

// The caller's memory as (batch, heads, length, head_size), whatever its layout.
at::Tensor tensor(const flash_attn_params& params, const void* address, int64_t length, int64_t heads) {
  const bool heads_first = params.layout == FLASH_ATTN_BATCH_HEADS_LENGTH;
  const auto options = at::TensorOptions().dtype(*scalar_type(params.dtype)).device(device_of(params));
  const std::array<int64_t, 4> sizes{params.batch, heads_first ? heads : length, heads_first ? length : heads,
                                     params.head_size};
  auto whole = at::for_blob(const_cast<void*>(address), sizes)
                   .options(options)
                   .target_device(device_of(params))
                   .make_tensor();
  return heads_first ? whole : whole.transpose(1, 2);
}

at::Tensor of_queries(const flash_attn_params& params, const void* address) {
  return tensor(params, address, params.length, params.heads);
}

at::Tensor of_keys(const flash_attn_params& params, const void* address) {
  return tensor(params, address, key_length(params), key_heads(params));
}

std::optional<at::Tensor> mask_of(const flash_attn_params& params) {
  if (params.mask == nullptr) {
    return std::nullopt;
  }
  const std::array<int64_t, 4> sizes{std::max<int64_t>(params.mask_batch, 1), std::max<int64_t>(params.mask_heads, 1),
                                     params.length, key_length(params)};
  const auto type = statistic_type(*scalar_type(params.dtype));
  return at::for_blob(const_cast<void*>(params.mask), sizes).options(at::TensorOptions().dtype(type)).make_tensor();
}

at::Tensor statistic(const flash_attn_params& params, const void* address) {
  const auto type = statistic_type(*scalar_type(params.dtype));
  const std::array<int64_t, 3> sizes{params.batch, params.heads, params.length};
  return at::for_blob(const_cast<void*>(address), sizes)
      .options(at::TensorOptions().dtype(type).device(device_of(params)))
      .target_device(device_of(params))
      .make_tensor();
}

std::optional<double> scale_of(const flash_attn_params& params) {
  return params.scale == 0 ? std::nullopt : std::optional<double>(params.scale);
}

}  // namespace

extern "C" int flash_attn_forward(const flash_attn_params* params, const void* query, const void* key,
                                  const void* value, void* out, void* logsumexp) {
  const std::initializer_list<Argument> with_statistic = {
      {"query", query}, {"key", key}, {"value", value}, {"out", out}, {"logsumexp", logsumexp, true}};
  const std::initializer_list<Argument> without = {{"query", query}, {"key", key}, {"value", value}, {"out", out}};
  return guarded(params, logsumexp == nullptr ? without : with_statistic, [&] {
    const auto q = of_queries(*params, query);
    const auto k = of_keys(*params, key);
    const auto v = of_keys(*params, value);
    const bool causal = params->causal != 0;
    at::Tensor result;
    at::Tensor sums;
    if (on_gpu(*params)) {
      const auto found = at::_scaled_dot_product_flash_attention(q, k, v, 0.0, causal, false, scale_of(*params));
      result = std::get<0>(found);
      sums = std::get<1>(found);
    } else {
      std::tie(result, sums) =
          at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, mask_of(*params), scale_of(*params));
    }
    of_queries(*params, out).copy_(result);
    if (logsumexp != nullptr) {
      statistic(*params, logsumexp).copy_(sums);
    }
  });
}

extern "C" int flash_attn_backward(const flash_attn_params* params, const void* grad_out, const void* query,
                                   const void* key, const void* value, const void* out, const void* logsumexp,
                                   void* grad_query, void* grad_key, void* grad_value) {
  return guarded(
      params,
      {{"grad_out", grad_out},
       {"query", query},
       {"key", key},
       {"value", value},
       {"out", out},
       {"logsumexp", logsumexp, true},
       {"grad_query", grad_query},
       {"grad_key", grad_key},
       {"grad_value", grad_value}},
      [&] {
        const auto grad = of_queries(*params, grad_out);
        const auto q = of_queries(*params, query);
        const auto k = of_keys(*params, key);
        const auto v = of_keys(*params, value);
        const auto result = of_queries(*params, out);
        const auto sums = statistic(*params, logsumexp);
        const bool causal = params->causal != 0;
        std::tuple<at::Tensor, at::Tensor, at::Tensor> found;
        if (on_gpu(*params)) {
          // No sequences of different lengths, and no dropout: neither boundaries nor a random state.
          const auto state = at::zeros({2}, at::TensorOptions().dtype(at::kLong).device(device_of(*params)));
          found = at::_scaled_dot_product_flash_attention_backward(grad, q, k, v, result, sums, at::Tensor(),
                                                                   at::Tensor(), params->length, key_length(*params), 0.0,
                                                                   causal, state, state, scale_of(*params));
        } else {
          found = at::_scaled_dot_product_flash_attention_for_cpu_backward(grad, q, k, v, result, sums, 0.0, causal,
                                                                           mask_of(*params), scale_of(*params));
        }
        of_queries(*params, grad_query).copy_(std::get<0>(found));
        of_keys(*params, grad_key).copy_(std::get<1>(found));
        of_keys(*params, grad_value).copy_(std::get<2>(found));
      });
}

extern "C" const char* flash_attn_status_text(int status) {
  switch (status) {
    case FLASH_ATTN_OK:
      return "no error";
    case FLASH_ATTN_BAD_STRUCT:
      return "the parameters are missing or of another release of this library";
    case FLASH_ATTN_NULL_POINTER:
      return "a required tensor has no address";
    case FLASH_ATTN_BAD_ALIGNMENT:
      return "an address is not aligned";
    case FLASH_ATTN_BAD_SIZE:
      return "a size is too small";
    case FLASH_ATTN_BAD_HEAD_SIZE:
      return "a GPU has no kernel for this head size";
    case FLASH_ATTN_OVERFLOW:
      return "a tensor is larger than can be addressed";
    case FLASH_ATTN_BAD_DTYPE:
      return "the dtype is unknown, or the device has no kernel for it";
    case FLASH_ATTN_BAD_LAYOUT:
      return "the layout is unknown";
    case FLASH_ATTN_BAD_CAUSAL:
      return "causal is neither 0 nor 1, or 1 with keys of another length";
    case FLASH_ATTN_BAD_SCALE:
      return "the scale is negative, infinite or not a number";
    case FLASH_ATTN_BAD_DEVICE:
      return "the device is unknown or not there";
    case FLASH_ATTN_BAD_STREAM:
      return "the stream is not one of the device";
    case FLASH_ATTN_WRONG_MEMORY:
      return "an address is not in the memory of the device";
    case FLASH_ATTN_NO_MEMORY:
      return "too little memory is free";
    case FLASH_ATTN_TORCH_ERROR:
      return "torch refused or failed";
    case FLASH_ATTN_BAD_KEY_HEADS:
      return "the queries cannot share the heads of the keys";
    case FLASH_ATTN_BAD_MASK:
      return "the device has no kernel for a mask, or its sizes do not fit";
    default:
      return "unknown status";
  }
}

extern "C" const char* flash_attn_last_error(void) {
  return last_error.data();
}
