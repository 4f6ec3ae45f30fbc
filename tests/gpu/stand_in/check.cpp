// Checks the stand-in for CUDA: check LIBRARY. One line per promise; the exit code is 0 if all are kept.

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>

#include <dlfcn.h>

#include <cstdio>
#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;

const at::Device kDevice(at::kCUDA, 0);
int failures = 0;

void check(const char* promise, const std::function<bool()>& kept) {
  std::string reason;
  bool good = false;
  try {
    good = kept();
  } catch (const std::exception& e) {
    reason = std::string(e.what()).substr(0, 600);
  }
  std::printf("%s  %s\n", good ? "ok    " : "FAILED", promise);
  if (!reason.empty()) {
    std::printf("        %s\n", reason.c_str());
  }
  std::fflush(stdout);
  failures += good ? 0 : 1;
}

Tensor numbers(at::IntArrayRef size) {
  return at::randn(size);
}

at::TensorOptions on_device(at::ScalarType dtype = at::kFloat) {
  return at::TensorOptions(kDevice).dtype(dtype);
}

// The device's tensor holds what the CPU's does.
bool same(const Tensor& host, const Tensor& device) {
  return host.is_cpu() && device.device() == kDevice && host.sizes() == device.sizes() &&
      host.dtype() == device.dtype() && at::allclose(host, device.cpu(), 1e-4, 1e-5, /*equal_nan=*/true);
}

// The function gives the same value and, for floating inputs, the same gradients on both devices.
bool agree(const std::function<Tensor(const Tensors&)>& f, const Tensors& inputs) {
  const auto run = [&](const at::Device& device) {
    Tensors leaves;
    for (const auto& input : inputs) {
      auto leaf = input.to(device).detach();
      leaves.push_back(leaf.is_floating_point() ? leaf.requires_grad_() : leaf);
    }
    at::manual_seed(7);
    auto out = f(leaves);
    out.square().sum().backward();
    leaves.push_back(out.detach());
    return leaves;
  };
  const auto host = run(at::kCPU);
  const auto device = run(kDevice);
  bool good = same(host.back(), device.back());
  for (size_t i = 0; i < inputs.size(); i++) {
    if (inputs[i].is_floating_point()) {
      good = good && same(host[i].grad(), device[i].grad());
    }
  }
  return good;
}

bool refused(const std::function<void()>& f) {
  try {
    f();
    return false;
  } catch (const c10::Error& e) {
    return std::string(e.what()).find("Expected all tensors to be on the same device") != std::string::npos;
  }
}

void devices_and_copies() {
  check("libtorch has one CUDA device", [] { return at::hasCUDA() && at::getNumGPUs() == 1; });
  check("a tensor goes there and back", [] {
    const auto x = numbers({3, 4});
    return same(x, x.to(kDevice)) && x.to(kDevice).cpu().equal(x);
  });
  check("made there: empty, zeros, arange, full, tensors of numbers", [] {
    return at::empty({2, 3}, on_device()).is_cuda() && same(at::zeros({5}), at::zeros({5}, on_device())) &&
        same(at::arange(6), at::arange(6, on_device(at::kLong))) &&
        same(at::full({2}, 3.0), at::full({2}, 3.0, on_device())) &&
        same(at::tensor({1.0f, 2.0f}), at::tensor({1.0f, 2.0f}, on_device()));
  });
  check("fresh memory isn't zero", [] { return at::empty({8}, on_device()).isnan().all().item<bool>(); });
  check("empty tensors", [] { return same(at::empty({0, 3}), at::empty({0, 3}, on_device()) + 1); });
  check("copies change type and layout", [] {
    const auto x = numbers({4, 6});
    auto target = at::zeros({6, 4}, on_device(at::kBFloat16));
    target.t().copy_(x);
    auto back = at::zeros({4, 6}, at::kDouble);
    back.copy_(target.t());
    return same(x.to(at::kBFloat16), target.t()) && back.equal(x.to(at::kBFloat16).to(at::kDouble)) &&
        same(x.t().contiguous(), x.to(kDevice).t().contiguous());
  });
  check("copies spread a row", [] {
    auto target = at::zeros({3, 2}, on_device());
    target.copy_(at::tensor({1.0f, 2.0f}));
    return same(at::tensor({1.0f, 2.0f}).expand({3, 2}), target);
  });
  check("a copy that isn't waited for", [] {
    const auto x = numbers({5});
    return same(x, x.to(kDevice, at::kFloat, /*non_blocking=*/true)) &&
        x.to(kDevice).to(at::kCPU, at::kFloat, /*non_blocking=*/true).equal(x);
  });
  check("numbers are read", [] { return at::full({1}, 2.5, on_device()).item<double>() == 2.5; });
  check("pinned memory", [] {
    const auto x = numbers({7});
    const auto pinned = x.pin_memory();
    return !x.is_pinned() && pinned.is_pinned() && pinned.is_cpu() && pinned.equal(x) && same(x, pinned.to(kDevice));
  });
  check("a second device is refused", [] {
    try {
      at::zeros({1}, at::Device(at::kCUDA, 1));
      return false;
    } catch (const c10::Error&) {
      return true;
    }
  });
}

void mixed_devices() {
  const auto host = numbers({2});
  const auto device = host.to(kDevice);
  check("a sum across devices is refused", [&] {
    return refused([&] { at::add(host, device); }) && refused([&] { at::add(device, host); }) &&
        refused([&] { device.clone().add_(host); }) && refused([&] { host.clone().add_(device); });
  });
  check("so are products, joins, choices and lists", [&] {
    const auto square = numbers({2, 2});
    return refused([&] { at::mm(square, square.to(kDevice)); }) && refused([&] { at::cat({host, device}); }) &&
        refused([&] { device.index_select(0, at::zeros({1}, at::kLong)); }) &&
        refused([&] { at::linear(square.to(kDevice), square.to(kDevice), host); }) &&
        refused([&] { at::layer_norm(device, {2}, host); }) &&
        refused([&] { at::_foreach_add_(Tensors{device.clone()}, Tensors{host}); });
  });
  check("one number may come from the CPU", [&] {
    return same(host * 2, device * at::scalar_tensor(2.0)) && refused([&] { at::scalar_tensor(2.0).mul_(device); });
  });
  check("indices may come from the CPU", [&] {
    c10::List<std::optional<Tensor>> second;
    second.push_back(at::tensor({1}, at::kLong));
    auto target = device.clone();
    target.index_put_(second, at::zeros({1}, on_device()));
    return same(at::index(host, second), at::index(device, second)) && target[1].item<float>() == 0;
  });
}

void memory() {
  check("a write through a view reaches the base", [] {
    auto base = at::zeros({12}, on_device());
    auto view = base.view({3, 4}).select(0, 1).narrow(0, 1, 2);
    view.fill_(5);
    auto expected = at::zeros({12});
    expected.slice(0, 5, 7).fill_(5);
    return view.is_alias_of(base) && view.data_ptr() == base.data_ptr<float>() + 5 && same(expected, base);
  });
  check("writes in place on a part of a flat buffer", [] {
    const auto run = [](Tensor flat, const Tensor& other) {
      auto part = flat.narrow(0, 2, 4);
      part.fill_(3).add_(other).mul_(2);
      flat.narrow(0, 6, 4).copy_(other);
      flat.narrow(0, 0, 1).zero_();
      at::add_out(part, part, other);
      return flat;
    };
    const auto flat = numbers({10}), other = numbers({4});
    return same(run(flat.clone(), other), run(flat.to(kDevice), other.to(kDevice)));
  });
  check("a storage is given up and had again", [] {
    auto x = at::ones({4}, on_device());
    auto view = x.narrow(0, 1, 2);
    auto* storage = x.storage().unsafeGetStorageImpl();
    storage->set_data_ptr_noswap(storage->allocator()->allocate(0));
    storage->set_nbytes(0);
    storage->set_data_ptr_noswap(storage->allocator()->allocate(16));
    storage->set_nbytes(16);
    x.fill_(2);
    return same(at::full({2}, 2.0), view) && storage->device() == kDevice;
  });
  check("the same of a result's storage", [] {
    auto x = at::ones({4}, on_device()) + 1;
    auto* storage = x.storage().unsafeGetStorageImpl();
    storage->set_data_ptr_noswap(storage->allocator()->allocate(0));
    storage->set_data_ptr_noswap(storage->allocator()->allocate(16));
    return same(at::full({4}, 2.0), x.fill_(2)) && storage->device() == kDevice;
  });
  check("a tensor grows and is an output", [] {
    auto x = at::ones({2}, on_device());
    auto view = x.view({2});
    x.resize_({5}).narrow(0, 2, 3).fill_(4);
    auto out = at::empty({0}, on_device());
    at::add_out(out, x, x);
    return same(at::tensor({1.0f, 1.0f, 4.0f, 4.0f, 4.0f}), x) && view.is_alias_of(x) && same(x.cpu() * 2, out);
  });
  check("a tensor is pointed at other memory", [] {
    auto x = at::ones({2}, on_device()), y = at::full({4}, 2.0, on_device());
    x.set_(y.storage(), 1, {2}, {1});
    x.fill_(7);
    auto z = at::empty({0}, on_device()).set_(y);
    return same(at::tensor({2.0f, 7.0f, 7.0f, 2.0f}), y) && z.is_alias_of(y);
  });
  check("copies past autograd", [] {
    auto x = at::zeros({3}, on_device()).requires_grad_();
    const auto version = x._version();
    Tensor data(x.variable_data());
    data.copy_(at::ones({3}), /*non_blocking=*/true);
    return same(at::ones({3}), x.detach()) && x._version() == version;
  });
}

void gradients() {
  check("linear, norm, gelu, softmax, matmul, choice", [] {
    return agree(
        [](const Tensors& t) {
          auto h = at::gelu(at::layer_norm(at::linear(t[0], t[1], t[2]), {6}, t[3], t[4]));
          return at::matmul(at::softmax(h, -1), h.transpose(-1, -2)).index_select(1, t[5]);
        },
        {numbers({2, 3, 5}), numbers({6, 5}), numbers({6}), numbers({6}), numbers({6}),
         at::tensor({2, 0}, at::kLong)});
  });
  check("convolution, batch norm, pooling", [] {
    return agree(
        [](const Tensors& t) {
          auto mean = at::zeros({4}, t[0].options()), variance = at::ones({4}, t[0].options());
          auto h = at::conv2d(t[0], t[1], t[2], /*stride=*/1, /*padding=*/1);
          h = at::batch_norm(h, t[3], t[4], mean, variance, /*training=*/true, 0.1, 1e-5, /*cudnn_enabled=*/true);
          return at::max_pool2d(at::relu(h), 2) + mean.sum() + variance.sum();
        },
        {numbers({2, 3, 8, 8}), numbers({4, 3, 3, 3}), numbers({4}), numbers({4}), numbers({4})});
  });
  check("convolution by channel, transposed and in one dimension", [] {
    return agree(
               [](const Tensors& t) {
                 const int64_t one[] = {1, 1}, zero[] = {0, 0};
                 return at::conv_transpose2d(at::conv2d(t[0], t[1], {}, one, one, one, 3), t[2], {}, one, zero);
               },
               {numbers({2, 3, 8, 8}), numbers({3, 1, 3, 3}), numbers({3, 2, 2, 2})}) &&
        agree(
               [](const Tensors& t) { return at::conv1d(t[0], t[1], t[2]); },
               {numbers({2, 3, 9}), numbers({4, 3, 3}), numbers({4})});
  });
  check("attention, plain, masked and causal", [] {
    const auto attention = [](const Tensors& t, const std::optional<Tensor>& mask, bool causal) {
      return at::scaled_dot_product_attention(t[0], t[1], t[2], mask, /*dropout_p=*/0.0, causal);
    };
    const Tensors qkv = {numbers({2, 2, 4, 8}), numbers({2, 2, 4, 8}), numbers({2, 2, 4, 8})};
    auto masked = qkv;
    masked.push_back(at::ones({4, 4}, at::kBool).tril());
    return agree([&](const Tensors& t) { return attention(t, {}, false); }, qkv) &&
        agree([&](const Tensors& t) { return attention(t, t[3], false); }, masked) &&
        agree([&](const Tensors& t) { return attention(t, {}, true); }, qkv);
  });
  check("embedding, dropout and losses", [] {
    return agree(
        [](const Tensors& t) {
          auto h = at::dropout(at::embedding(t[0], t[1]), 0.5, true);
          return at::cross_entropy_loss(h, t[1]) + at::mse_loss(h, t[2]) +
              at::binary_cross_entropy_with_logits(h, t[2].sigmoid());
        },
        {numbers({5, 5}), at::tensor({0, 3, 3, 1}, at::kLong), numbers({4, 5})});
  });
  check("alignment of sequences", [] {
    return agree(
        [](const Tensors& t) {
          return at::ctc_loss(at::log_softmax(t[0], 2), t[1], at::IntArrayRef{6, 5}, at::IntArrayRef{2, 2});
        },
        {numbers({6, 2, 4}), at::tensor({1, 2, 3, 1}, at::kLong).view({2, 2})});
  });
  check("tensors are split, joined, sorted and chosen from", [] {
    return agree(
        [](const Tensors& t) {
          auto joined = at::cat(t[0].chunk(2, 1), 0);
          auto h = at::stack({joined, at::where(joined > 0, joined, at::scalar_tensor(0.5))});
          return std::get<0>(h.sort(-1)).cumsum(1).masked_fill(h > 1, 2.0).gather(2, t[1]);
        },
        {numbers({3, 4}), at::ones({2, 6, 1}, at::kLong)});
  });
  check("gradients add up in place, in a buffer made before", [] {
    auto flat = at::zeros({8}, on_device());
    auto weight = numbers({3}).to(kDevice).requires_grad_();
    weight.mutable_grad() = flat.narrow(0, 2, 3);
    for (int i = 0; i < 2; i++) {
      (weight * 3).sum().backward();
    }
    auto expected = at::zeros({8});
    expected.narrow(0, 2, 3).fill_(6);
    return same(expected, flat) && weight.grad().is_alias_of(flat);
  });
  check("several gradients meet, and the graph crosses to the CPU", [] {
    auto weight = numbers({3}).to(kDevice).requires_grad_();
    (weight.cpu() * 2 + (weight * 3).cpu()).sum().backward();
    return same(at::full({3}, 5.0), weight.grad());
  });
  check("AdamW", [] {
    const auto run = [](const at::Device& device, const Tensor& values, const Tensor& gradient) {
      at::NoGradGuard no_grad;
      auto parameter = values.clone().to(device), first = at::zeros_like(parameter), second = at::zeros_like(parameter);
      auto step = at::scalar_tensor(1.0, parameter.options());
      at::_fused_adamw_(
          {parameter}, {gradient.to(device)}, {first}, {second}, {}, {step}, 0.1, 0.9, 0.99, 0.1, 1e-8,
          /*amsgrad=*/false, /*maximize=*/false, /*grad_scale=*/{}, /*found_inf=*/{});
      return parameter;
    };
    const auto values = numbers({9}), gradient = numbers({9});
    return same(run(at::kCPU, values, gradient), run(kDevice, values, gradient));
  });
  check("no gradients, in inference", [] {
    c10::InferenceMode inference;
    const auto x = numbers({2, 3}), w = numbers({4, 3});
    auto y = at::linear(x.to(kDevice), w.to(kDevice));
    y.narrow(0, 0, 1).zero_();
    return y[0].eq(0).all().item<bool>() && same(at::linear(x, w)[1], y[1]);
  });
}

}  // namespace

int main(int argc, char** argv) {
  // Before libtorch looks for CUDA, which it does once.
  if (argc != 2 || dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    std::fprintf(stderr, "usage: %s LIBRARY\n%s\n", argv[0], argc == 2 ? dlerror() : "");
    return 2;
  }
  // As the worker sets it.
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
  at::globalContext().setDeterministicFillUninitializedMemory(false);
  at::manual_seed(1);
  devices_and_copies();
  mixed_devices();
  memory();
  gradients();
  std::printf("%s\n", failures == 0 ? "all passed" : "some failed");
  return failures == 0 ? 0 : 1;
}
