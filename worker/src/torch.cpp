// What the Rust bindings of libtorch lack. Every function returns null, or an error text that the
// caller frees with espalier_free.

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/jit/api/module.h>

#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

char* text(const char* what) {
  return strdup(what);
}

template <typename F>
char* guarded(F&& f) {
  try {
    f();
    return nullptr;
  } catch (const std::exception& e) {
    return text(e.what());
  } catch (...) {
    return text("unknown C++ exception");
  }
}

// Prints a warning the first time that it comes.
struct Once : c10::WarningHandler {
  void process(const c10::Warning& warning) override {
    {
      std::lock_guard<std::mutex> lock(mutex);
      if (!seen.insert(warning.msg()).second) {
        return;
      }
    }
    c10::WarningHandler::process(warning);
  }

  std::mutex mutex;
  std::set<std::string> seen;
};

// The finalizer of splitmix64: every bit of the input reaches every bit of the output.
inline uint64_t mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9ull;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebull;
  x ^= x >> 31;
  return x;
}

// 32-bit mixing (lowbias32) that vectorizes well.
inline uint32_t mix32(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  x ^= x >> 16;
  return x;
}

// One row of a mask. Integers up to the comparison, so every instruction set gives the same bits.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
void fill_mask(
    float* out, uint32_t width, uint32_t low, uint32_t high, uint32_t threshold, float keep) {
  for (uint32_t j = 0; j < width; j++) {
    const uint32_t h = mix32(mix32(j + low) ^ high);
    out[j] = h >= threshold ? keep : 0.0f;
  }
}

}  // namespace

extern "C" {

void espalier_free(char* p) {
  free(p);
}

char* espalier_set_grad(at::Tensor* parameter, at::Tensor* gradient) {
  return guarded([&] { parameter->mutable_grad() = gradient->defined() ? *gradient : at::Tensor(); });
}

char* espalier_backward(at::Tensor** outputs, at::Tensor** gradients, size_t n, bool keep) {
  return guarded([&] {
    std::vector<at::Tensor> roots, grads;
    for (size_t i = 0; i < n; i++) {
      roots.push_back(*outputs[i]);
      grads.push_back(*gradients[i]);
    }
    torch::autograd::backward(roots, grads, /*retain_graph=*/keep);
  });
}

char* espalier_adamw(
    at::Tensor* parameter, at::Tensor* gradient, at::Tensor* first, at::Tensor* second,
    double step, double rate, double beta1, double beta2, double weight_decay, double eps) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto count = at::scalar_tensor(step, parameter->options().dtype(at::kFloat));
    at::_fused_adamw_(
        {*parameter}, {*gradient}, {*first}, {*second}, {}, {count}, rate, beta1, beta2,
        weight_decay, eps, /*amsgrad=*/false, /*maximize=*/false, /*grad_scale=*/{},
        /*found_inf=*/{});
  });
}

// Copies numbers between tensors of one size, past autograd's count of changes. Memory of the host that is read is
// pinned and stays as it is until the device has read it; what is written to the host is there on return.
char* espalier_overwrite(at::Tensor* target, at::Tensor* source) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    at::Tensor data(target->variable_data());
    data.copy_(*source, /*non_blocking=*/!target->is_cpu());
  });
}

char* espalier_pin(at::Tensor* tensor) {
  return guarded([&] { *tensor = tensor->pin_memory(); });
}

// Loads libtorch's kernels for CUDA and asks for those that give the same bits every time; of operations that have
// none libtorch warns. Attention without saved scores adds gradients in any order, so it is left to plain products.
char* espalier_load_cuda(const char* library) {
  return guarded([&] {
    // cuBLAS reads it when it starts; without it products depend on what else runs.
    setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
    if (dlopen(library, RTLD_NOW | RTLD_GLOBAL) == nullptr) {
      throw std::runtime_error(dlerror());
    }
    if (at::getNumGPUs() == 0) {
      return;
    }
    auto& context = at::globalContext();
    context.setDeterministicAlgorithms(true, /*warn_only=*/true);
    context.setDeterministicFillUninitializedMemory(false);
    context.setDeterministicCuDNN(true);
    context.setBenchmarkCuDNN(false);
    context.setAllowTF32CuDNN(false);
    context.setSDPUseMemEfficient(false);
  });
}

// What this thread does without naming a device it does on this one of CUDA's. Of what libtorch warns here, each text is
// printed once.
char* espalier_use_cuda(int number) {
  return guarded([&] {
    static Once once;
    c10::WarningUtils::set_warning_handler(&once);
    const auto index = static_cast<c10::DeviceIndex>(number);
    c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).setDevice(c10::Device(c10::DeviceType::CUDA, index));
  });
}

// Sets the bytes that a tensor's storage holds; views keep pointing to it. Memory that is given up is
// given back at once, memory that is had again is not initialised.
char* espalier_resize_storage(at::Tensor* tensor, size_t bytes) {
  return guarded([&] {
    c10::DeviceGuard guard(tensor->device());
    auto* storage = tensor->storage().unsafeGetStorageImpl();
    if (bytes == 0) {
      storage->set_data_ptr_noswap(storage->allocator()->allocate(0));
      storage->set_nbytes(0);
    } else if (storage->nbytes() < bytes) {
      storage->set_data_ptr_noswap(storage->allocator()->allocate(bytes));
      storage->set_nbytes(bytes);
    }
  });
}

// Writes a TorchScript module with these parameters and this source of its methods.
char* espalier_write_script(
    const char* path, const char* source, const char* const* names, at::Tensor** values, size_t n) {
  return guarded([&] {
    torch::jit::Module module("__torch__.Module");
    for (size_t i = 0; i < n; i++) {
      module.register_parameter(names[i], values[i]->detach().requires_grad_(true), false);
    }
    module.define(source);
    module.save(path);
  });
}

// Writes keep masks for `rows` rows: out[r][j] = 1/(1-p) with probability 1-p, else 0. The value
// depends on (key, rows_key[r], j) only.
void espalier_dropout(
    float* out, const uint64_t* row_keys, size_t rows, size_t width, uint64_t key, double p) {
  const float keep = static_cast<float>(1.0 / (1.0 - p));
  const uint32_t threshold = static_cast<uint32_t>(std::min(p * 4294967296.0, 4294967295.0));
  for (size_t r = 0; r < rows; r++) {
    const uint64_t row = mix(key ^ mix(row_keys[r] + 0x9e3779b97f4a7c15ull));
    const uint32_t low = static_cast<uint32_t>(row), high = static_cast<uint32_t>(row >> 32);
    fill_mask(out + r * width, static_cast<uint32_t>(width), low, high, threshold, keep);
  }
}

}  // extern "C"
