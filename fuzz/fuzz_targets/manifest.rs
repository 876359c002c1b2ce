//! Any bytes behind a manifest's checksum: a manifest or a typed error.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    millstream::checkpoint::fuzzing::manifest(bytes);
});
