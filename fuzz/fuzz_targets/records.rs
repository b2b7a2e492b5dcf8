#![no_main]

libfuzzer_sys::fuzz_target!(|input: triplay_fuzz::records::Input| triplay_fuzz::records::check(&input));
