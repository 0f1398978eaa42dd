#![no_main]
#![expect(missing_docs, reason = "the target is documented in the library")]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qscale_fuzz::prometheus(data));
