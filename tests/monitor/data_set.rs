//! Which metric files the tests run over.

use std::path::{Path, PathBuf};

/// The metric files, sorted by name.
pub fn files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let asked = std::env::var_os("MILLSTREAM_DATA").map(PathBuf::from);
    let candidates = [root.join("../shared/data/nab"), root.join("tests/data")];
    let directory = asked.or_else(|| candidates.into_iter().find(|directory| directory.is_dir()));
    let directory = directory.expect("tests/data is part of the repository");
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).filter(|path| is_metric_file(path)).collect();
    assert!(!files.is_empty(), "{} holds no *.csv file", directory.display());
    files.sort();
    files
}

fn is_metric_file(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "csv")
}
