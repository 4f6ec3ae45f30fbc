#![no_main]

// Not Parquet: our reader catches panics of the library that it uses, and libFuzzer ends at the first panic, caught
// or not. Damaged Parquet files are tested in `worker/src/data`.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    if let Some(kind) = bytes.first_mut() {
        *kind = (*kind & 0x40) | (*kind % 2);
    }
    espalier_fuzz::data_file::target(&bytes);
});
