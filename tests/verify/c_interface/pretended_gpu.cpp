// One GPU that is there by its count alone, in a torch without GPUs: arguments for it are checked as on a host that has one.

#include <c10/core/impl/DeviceGuardImplInterface.h>

using Pretended = c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>;

C10_REGISTER_GUARD_IMPL(CUDA, Pretended)
