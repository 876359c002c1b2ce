//! Writes the seeds of all targets from a directory that the store wrote: `cargo run --example seeds` in this folder.

#[path = "../tests/checkpoint_support/mod.rs"]
mod checkpoint_support;

use millstream::checkpoint::fuzzing;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let (files, _) = checkpoint_support::small_directory();
    let [map, manifest] = fuzzing::PAGE_MAP_AND_MANIFEST;
    let write = |target: &str, name: String, bytes: &[u8]| {
        let dir = Path::new("seeds").join(target);
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join(name), bytes)
    };
    for (path, bytes) in &files {
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        write("block", name.clone(), &bytes[..4096])?;
        for (i, (kind, payload)) in fuzzing::payloads(bytes).into_iter().enumerate() {
            match kind {
                kind if kind == map => write("page_map", format!("{name}-{i}"), &payload)?,
                kind if kind == manifest => write("manifest", format!("{name}-{i}"), &payload)?,
                _ => {}
            }
        }
    }
    write("restore", "flip-behind-checksums".to_owned(), &[1, 0, 80, 32, 2, 7, 7])?;
    write("restore", "flip".to_owned(), &[0, 1, 80, 0, 1, 7])?;
    write("restore", "cut".to_owned(), &[0, 0x81, 0, 48, 0])?;
    write("restore", "copied-sector".to_owned(), &[1, 0xc0, 0, 16, 1])?;
    write("restore", "nothing".to_owned(), &[1])
}
