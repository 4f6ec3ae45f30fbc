//! Compiles the C++ shim against libtorch's headers and lets binaries find libtorch at run time.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=src/torch.cpp");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Some(libtorch) = env::var_os("LIBTORCH").map(PathBuf::from) else {
        println!("cargo:warning=LIBTORCH is not set");
        panic!("LIBTORCH is not set: run `make setup`, then `source .espalier/env.sh`");
    };
    let include = libtorch.join("include");
    if !include.join("torch/csrc/autograd/autograd.h").is_file() {
        panic!(
            "{} holds no libtorch headers: run `make setup`",
            include.display()
        );
    }
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        // The masks of dropout are made in an inner loop here.
        .opt_level(3)
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file("src/torch.cpp")
        .compile("espalier_torch");
    let lib = libtorch.join("lib");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
}
