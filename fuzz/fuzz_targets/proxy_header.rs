#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringecho_fuzz::fuzzed::proxy_header(input));
