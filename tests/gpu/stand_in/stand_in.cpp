// A device that poses as `cuda:0` on a machine without a GPU. Loaded into a process with libtorch's CPU build, it
// keeps the device's memory in the host's and runs the CPU's kernels on it; README.md says what that shows.
//
// An operator that has a kernel for the CPU gets the same one here: each tensor of the device is shown to the kernel
// as a CPU tensor over the same bytes, and what comes back is named the device's again. Nothing is copied, so views
// stay views and writes in place reach every tensor that shares the memory. Operators without a kernel of their own
// are made of others by libtorch, as with CUDA, and what only CUDA has is missing here with libtorch's own error.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace {

using torch::jit::Stack;

const c10::Device kDevice(c10::kCUDA, 0);
const c10::Stream kStream(c10::Stream::DEFAULT, kDevice);

// `cuda` without a number is the current device, which is the only one.
void require_only_device(c10::Device device) {
  TORCH_CHECK(device.is_cuda() && device.index() <= 0, "CUDA error: invalid device ordinal (", device, ")");
}

// === memory ===

void* take_bytes(size_t bytes) {
  void* memory = nullptr;
  TORCH_CHECK_WITH(
      OutOfMemoryError, posix_memalign(&memory, 64, bytes) == 0, "CUDA out of memory. Tried to allocate ", bytes,
      " bytes");
  // Numbers that nobody wrote are NaN, so that code which relies on fresh memory being zero is found out.
  std::memset(memory, 0xff, bytes);
  return memory;
}

class DeviceAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) {
      return {nullptr, nullptr, &std::free, kDevice};
    }
    void* memory = take_bytes(bytes);
    return {memory, memory, &std::free, kDevice};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }

  void copy_data(void* dest, const void* src, size_t count) const override { default_copy_data(dest, src, count); }
};

// Pinned memory is plain memory, but it is remembered, so that `is_pinned` tells the truth.
class PinnedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) {
      return {nullptr, nullptr, &release, c10::Device(c10::kCPU)};
    }
    void* memory = take_bytes(bytes);
    std::lock_guard<std::mutex> lock(mutex());
    blocks()[reinterpret_cast<uintptr_t>(memory)] = bytes;
    return {memory, memory, &release, c10::Device(c10::kCPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void* dest, const void* src, size_t count) const override { default_copy_data(dest, src, count); }

  static bool holds(const void* data) {
    const auto address = reinterpret_cast<uintptr_t>(data);
    std::lock_guard<std::mutex> lock(mutex());
    auto next = blocks().upper_bound(address);
    if (next == blocks().begin()) {
      return false;
    }
    const auto& [start, bytes] = *std::prev(next);
    return address < start + bytes;
  }

 private:
  // Never freed: tensors in static variables give their memory back after this library's own are gone.
  static std::mutex& mutex() {
    static auto* value = new std::mutex;
    return *value;
  }

  static std::map<uintptr_t, size_t>& blocks() {
    static auto* value = new std::map<uintptr_t, size_t>;
    return *value;
  }

  static void release(void* memory) {
    {
      std::lock_guard<std::mutex> lock(mutex());
      blocks().erase(reinterpret_cast<uintptr_t>(memory));
    }
    std::free(memory);
  }
};

DeviceAllocator* device_allocator() {
  static auto* allocator = new DeviceAllocator;
  return allocator;
}

PinnedAllocator* pinned_allocator() {
  static auto* allocator = new PinnedAllocator;
  return allocator;
}

const bool allocator_set = [] {
  c10::SetAllocator(c10::kCUDA, device_allocator());
  return true;
}();

// === device, streams and events ===

// One device and one stream, on which everything is done when the call returns: events have nothing to wait for.
struct DeviceGuard final : public c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::kCUDA; }
  c10::Device exchangeDevice(c10::Device device) const override {
    require_only_device(device);
    return kDevice;
  }
  c10::Device getDevice() const override { return kDevice; }
  void setDevice(c10::Device device) const override { require_only_device(device); }
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  c10::DeviceCapability getDeviceCapability(c10::Device) const override { return {}; }

  c10::Stream getStream(c10::Device) const override { return kStream; }
  c10::Stream getDefaultStream(c10::Device) const override { return kStream; }
  c10::Stream getStreamFromGlobalPool(c10::Device, bool) const override { return kStream; }
  c10::Stream getNewStream(c10::Device, int) const override { return kStream; }
  c10::Stream exchangeStream(c10::Stream) const override { return kStream; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeDevice(c10::DeviceIndex) const override {}

  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override {}
};

C10_REGISTER_GUARD_IMPL(CUDA, DeviceGuard);

}  // namespace

// The registry's macros want the namespace that the registry is in.
namespace at {

// What libtorch's CPU code asks of CUDA. cuDNN and the like are absent, so it chooses paths that need none.
struct StandInHooks final : public CUDAHooksInterface {
  explicit StandInHooks(CUDAHooksArgs) {}

  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex device) const override { require_only_device(Device(kCUDA, device)); }
  DeviceIndex exchangeDevice(DeviceIndex device) const override {
    require_only_device(Device(kCUDA, device));
    return 0;
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex device) const override { return exchangeDevice(device); }
  void deviceSynchronize(DeviceIndex) const override {}

  bool isPinnedPtr(const void* data) const override { return PinnedAllocator::holds(data); }
  Allocator* getPinnedMemoryAllocator() const override { return pinned_allocator(); }
  Allocator* getCUDADeviceAllocator() const override { return device_allocator(); }
  Device getDeviceFromPtr(void*) const override { return kDevice; }

  // The CPU's kernels draw the numbers, so theirs is the generator that a seed must reach.
  const Generator& getDefaultGenerator(DeviceIndex) const override { return at::detail::getDefaultCPUGenerator(); }
  Generator getNewGenerator(DeviceIndex) const override { return at::detail::createCPUGenerator(); }

  std::string showConfig() const override { return "a stand-in for CUDA in the host's memory\n"; }
};

C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, StandInHooks);

}  // namespace at

namespace {

// === operators ===

void free_storage(void* storage) {
  delete static_cast<c10::Storage*>(storage);
}

// The same bytes under another device's name; they live as long as the longer-lived of the two storages.
c10::DataPtr bytes_of(const c10::Storage& storage, c10::Device device) {
  return {const_cast<void*>(storage.data()), new c10::Storage(storage), &free_storage, device};
}

c10::Storage renamed(const c10::Storage& storage, c10::Device device, c10::Allocator* allocator) {
  return {
      c10::Storage::use_byte_size_t(), storage.nbytes(), bytes_of(storage, device), allocator, /*resizable=*/true};
}

at::Tensor over(c10::Storage storage, c10::DispatchKey key, const at::Tensor& like) {
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), like.dtype());
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  if (like.is_conj()) {
    impl->_set_conj(true);
  }
  if (like.is_neg()) {
    impl->_set_neg(true);
  }
  if (like.unsafeGetTensorImpl()->is_wrapped_number()) {
    impl->set_wrapped_number(true);
  }
  return tensor;
}

// Which CPU tensors and storages stand for which of the device's during one call.
class Call {
 public:
  explicit Call(const c10::OperatorHandle& op) : op_(op) {}

  at::Tensor to_host(const at::Tensor& tensor) {
    if (!tensor.defined() || !tensor.is_cuda()) {
      if (tensor.defined()) {
        untouched_.insert(tensor.unsafeGetTensorImpl());
      }
      return tensor;
    }
    require_plain(tensor);
    // One tensor given twice must be one tensor to the kernel too, which may ask.
    auto found = hosts_.find(tensor.unsafeGetTensorImpl());
    if (found != hosts_.end()) {
      return found->second;
    }
    auto host = over(to_host(tensor.storage()), c10::DispatchKey::CPU, tensor);
    hosts_.emplace(tensor.unsafeGetTensorImpl(), host);
    devices_.emplace(host.unsafeGetTensorImpl(), tensor);
    return host;
  }

  c10::Storage to_host(const c10::Storage& storage) {
    if (storage.device_type() != c10::kCUDA) {
      return storage;
    }
    auto found = host_storages_.find(storage.unsafeGetStorageImpl());
    if (found != host_storages_.end()) {
      return found->second;
    }
    auto host = renamed(storage, c10::Device(c10::kCPU), c10::GetCPUAllocator());
    host_storages_.emplace(storage.unsafeGetStorageImpl(), host);
    device_storages_.emplace(host.unsafeGetStorageImpl(), storage);
    return host;
  }

  at::Tensor to_device(const at::Tensor& tensor, bool fresh_too) {
    if (!tensor.defined() || untouched_.count(tensor.unsafeGetTensorImpl())) {
      return tensor;
    }
    auto found = devices_.find(tensor.unsafeGetTensorImpl());
    if (found != devices_.end()) {
      return found->second;
    }
    require_plain(tensor);
    if (!fresh_too && !device_storages_.count(tensor.storage().unsafeGetStorageImpl())) {
      return tensor;
    }
    return over(to_device(tensor.storage()), c10::DispatchKey::CUDA, tensor);
  }

  // A kernel may have resized what it was given, or pointed it at other memory.
  void write_back() {
    for (auto& [host, device] : device_storages_) {
      auto* target = device.unsafeGetStorageImpl();
      if (host->data() != target->data()) {
        target->set_data_ptr_noswap(bytes_of(host_storages_.at(target), kDevice));
      }
      if (host->nbytes() != target->nbytes()) {
        target->set_nbytes(host->nbytes());
      }
    }
    for (auto& [host, device] : devices_) {
      auto* target = device.unsafeGetTensorImpl();
      auto storage = to_device(host->storage());
      if (!storage.is_alias_of(device.storage())) {
        target->set_storage_keep_dtype(storage);
      }
      if (host->sizes() != target->sizes() || host->strides() != target->strides() ||
          host->storage_offset() != target->storage_offset()) {
        target->set_sizes_and_strides(host->sizes(), host->strides(), host->storage_offset());
      }
    }
  }

 private:
  c10::Storage to_device(const c10::Storage& storage) {
    auto found = device_storages_.find(storage.unsafeGetStorageImpl());
    if (found != device_storages_.end()) {
      return found->second;
    }
    auto device = renamed(storage, kDevice, device_allocator());
    host_storages_.emplace(device.unsafeGetStorageImpl(), storage);
    device_storages_.emplace(storage.unsafeGetStorageImpl(), device);
    return device;
  }

  void require_plain(const at::Tensor& tensor) const {
    TORCH_CHECK_NOT_IMPLEMENTED(
        tensor.layout() == c10::kStrided && !tensor.is_quantized() && tensor.has_storage(),
        "the stand-in for CUDA has dense tensors only (", op_.operator_name(), ")");
  }

  const c10::OperatorHandle& op_;
  std::unordered_set<c10::TensorImpl*> untouched_;
  std::unordered_map<c10::TensorImpl*, at::Tensor> hosts_, devices_;
  std::unordered_map<c10::StorageImpl*, c10::Storage> host_storages_, device_storages_;
};

// Calls `f` with every tensor of an argument or a result, and puts back what it returns.
template <typename F>
void map_tensors(c10::IValue& value, F&& f) {
  if (value.isTensor()) {
    value = f(value.toTensor());
  } else if (value.isTensorList()) {
    auto tensors = value.toTensorVector();
    std::transform(tensors.begin(), tensors.end(), tensors.begin(), f);
    value = c10::List<at::Tensor>(tensors);
  } else if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> tensors;
    for (const auto& tensor : value.toOptionalTensorVector()) {
      tensors.push_back(tensor.has_value() ? std::optional<at::Tensor>(f(*tensor)) : std::nullopt);
    }
    value = std::move(tensors);
  }
}

// Whether CUDA takes a CPU tensor in this place among tensors of its own.
bool may_be_on_host(std::string_view op, const c10::Argument& argument, const at::Tensor& tensor) {
  static constexpr std::array<std::string_view, 7> indexing = {
      "aten::index",           "aten::index_put",     "aten::index_put_", "aten::_index_put_impl",
      "aten::_index_put_impl_", "aten::_unsafe_index", "aten::_unsafe_index_put"};
  if (op == "aten::copy_" || (op == "aten::_pack_padded_sequence" && argument.name() == "lengths")) {
    return true;
  }
  if (argument.name() == "indices" && std::find(indexing.begin(), indexing.end(), op) != indexing.end()) {
    return true;
  }
  const bool written = argument.alias_info() != nullptr && argument.alias_info()->isWrite();
  return tensor.dim() == 0 && !written && argument.name() != "state_steps";
}

void require_one_device(const c10::OperatorHandle& op, c10::ArrayRef<c10::IValue> values) {
  const auto& schema = op.schema();
  bool device = false;
  bool host = false;
  for (size_t i = 0; i < values.size(); i++) {
    auto value = values[i];
    map_tensors(value, [&](const at::Tensor& tensor) {
      device = device || (tensor.defined() && tensor.is_cuda());
      host = host ||
          (tensor.defined() && tensor.is_cpu() && !may_be_on_host(schema.name(), schema.arguments()[i], tensor));
      return tensor;
    });
  }
  TORCH_CHECK(
      !device || !host,
      "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (",
      op.operator_name(), ")");
}

// The kernel of all operators: the CPU's, over the device's memory.
void on_host(const c10::OperatorHandle& op, Stack* stack) {
  // libtorch's own kernels see no autograd, but they may be called where it isn't switched off.
  at::AutoDispatchBelowADInplaceOrView no_autograd;
  const size_t arguments = op.schema().arguments().size();
  const size_t returns = op.schema().returns().size();
  require_one_device(op, torch::jit::last(*stack, arguments));

  Call call(op);
  bool asked_for_host = false;
  for (auto value = stack->end() - arguments; value != stack->end(); ++value) {
    if (value->isDevice()) {
      if (value->toDevice().is_cuda()) {
        require_only_device(value->toDevice());
      } else {
        asked_for_host = true;
      }
      *value = c10::Device(c10::kCPU);
    } else if (value->isStorage()) {
      *value = call.to_host(value->toStorage());
    } else {
      map_tensors(*value, [&](const at::Tensor& tensor) { return call.to_host(tensor); });
    }
  }
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  call.write_back();
  for (auto value = stack->end() - returns; value != stack->end(); ++value) {
    map_tensors(*value, [&](const at::Tensor& tensor) { return call.to_device(tensor, !asked_for_host); });
  }
}

at::Tensor empty(
    c10::IntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
    std::optional<c10::Device> device, std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  require_only_device(device.value_or(kDevice));
  at::globalContext().lazyInitDevice(c10::kCUDA);
  return at::detail::empty_generic(
      size, device_allocator(), c10::DispatchKeySet(c10::DispatchKey::CUDA), c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(
    c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
    std::optional<c10::Device> device, std::optional<bool>) {
  require_only_device(device.value_or(kDevice));
  at::globalContext().lazyInitDevice(c10::kCUDA);
  return at::detail::empty_strided_generic(
      size, stride, device_allocator(), c10::DispatchKeySet(c10::DispatchKey::CUDA), c10::dtype_or_default(dtype));
}

// Takes the arguments off the stack and answers with a constant.
template <int64_t Answer>
void number(const c10::OperatorHandle& op, Stack* stack) {
  torch::jit::drop(*stack, op.schema().arguments().size());
  torch::jit::push(*stack, Answer);
}

void no(const c10::OperatorHandle& op, Stack* stack) {
  torch::jit::drop(*stack, op.schema().arguments().size());
  torch::jit::push(*stack, false);
}

void nothing(const c10::OperatorHandle& op, Stack* stack) {
  torch::jit::drop(*stack, op.schema().arguments().size());
}

using torch::CppFunction;

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  // Fused attention of CUDA is missing; 0 is attention made of plain products.
  m.impl("_fused_sdp_choice", CppFunction::makeFromBoxedFunction<&number<0>>());
  for (const char* name :
       {"_use_cudnn_ctc_loss", "_use_cudnn_ctc_loss.Tensor", "_use_miopen_ctc_loss", "_use_miopen_ctc_loss.Tensor"}) {
    m.impl(name, CppFunction::makeFromBoxedFunction<&no>());
  }
  m.impl("record_stream", CppFunction::makeFromBoxedFunction<&nothing>());
  // Not kernels to libtorch, yet they take a path of their own for CUDA.
  for (const char* name : {"copy_", "convolution", "convolution_backward"}) {
    m.impl(name, CppFunction::makeFromBoxedFunction<&on_host>());
  }
  static constexpr std::array<std::string_view, 3> own = {
      "aten::empty.memory_format", "aten::empty_strided", "aten::_fused_sdp_choice"};
  for (const auto& op : c10::Dispatcher::singleton().getRegistrationsForDispatchKey(c10::DispatchKey::CPU)) {
    const auto name = c10::toString(op);
    if (name.rfind("aten::", 0) == 0 && std::find(own.begin(), own.end(), name) == own.end()) {
      m.impl(name.c_str(), CppFunction::makeFromBoxedFunction<&on_host>());
    }
  }
}

// libtorch asks for the hooks once and keeps the answer, so a library that comes later would be half in force.
const bool first = [] {
  if (!at::detail::getCUDAHooks().hasCUDA()) {
    std::fputs("the stand-in for CUDA was loaded after libtorch had looked for CUDA; load it first\n", stderr);
    std::abort();
  }
  return true;
}();

}  // namespace
