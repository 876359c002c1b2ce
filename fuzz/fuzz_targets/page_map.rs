//! Any bytes behind a page map's checksum: a page map that counts right, or a typed error.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    millstream::checkpoint::fuzzing::page_map(bytes);
});
