#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mira_fuzz::replication(data));
