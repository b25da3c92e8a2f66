#![no_main]
libfuzzer_sys::fuzz_target!(
    init: clipsift::fuzzing::quiet(),
    |bytes: &[u8]| -> libfuzzer_sys::Corpus {
        match clipsift::fuzzing::run("embeddings", bytes) {
            true => libfuzzer_sys::Corpus::Keep,
            false => libfuzzer_sys::Corpus::Reject,
        }
    }
);
