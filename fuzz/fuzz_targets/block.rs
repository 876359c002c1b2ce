//! Any bytes where a block should be, with their own checksum and with one that fits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream::checkpoint::fuzzing;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    for _ in 0..2 {
        for kind in 0..6 {
            fuzzing::block(&bytes, 1, 2, 3, 4096, kind);
        }
        // The second time with the place the header claims and the checksum made to fit.
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        fuzzing::repair_checksums(&mut bytes);
    }
});
