#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| triplay_fuzz::jobs::check(bytes));
