//! A job that needs little of its first chunk of memory once had all of it cleared and resident: as a huge page, 2 MiB for each of a thousand
//! jobs. Huge pages are advised now when an arena maps its second chunk, for both.

#![allow(clippy::disallowed_methods, reason = "the test looks into /proc")]

use millstream::memory::{Arena, ArenaOptions, BlockSize, MemoryBudget};

/// Whether the mapping of an address is advised to be of huge pages.
fn is_huge(address: usize) -> bool {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut is_there = false;
    for line in smaps.lines() {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        if let Some((from, to)) = range
            && let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
        {
            is_there = (from..to).contains(&address);
        }
        if is_there && let Some(flags) = line.strip_prefix("VmFlags:") {
            return flags.split_whitespace().any(|flag| flag == "hg");
        }
    }
    panic!("no mapping holds {address:#x}");
}

#[test]
fn huge_pages_are_advised_from_the_second_chunk_on_and_then_for_both() {
    let has_huge_pages = std::fs::exists("/sys/kernel/mm/transparent_hugepage/enabled").unwrap();
    let arena = Arena::new(MemoryBudget::new(8 << 20), ArenaOptions::default());
    let first = arena.take("the test", BlockSize::M1).unwrap();
    assert!(!is_huge(first.as_ptr().addr()));
    let rest = [(); 2].map(|()| arena.take("the test", BlockSize::M1).unwrap());
    assert_eq!(arena.mapped_bytes(), 4 << 20);
    assert_eq!(is_huge(first.as_ptr().addr()), has_huge_pages);
    assert_eq!(is_huge(rest[1].as_ptr().addr()), has_huge_pages);
}
