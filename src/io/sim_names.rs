//! The directory tree of a simulated disk: names as programs see them, and names as the medium holds them.
//!
//! Until the directory is flushed, each creation, removal and renaming is a pending fact that a crash keeps or loses as a
//! whole; a renaming never leaves both names or neither when the file was durable under one of them.

use super::sim_disk::Survivors;
use super::sim_file::SimFile;
use crate::sim::Rng;
use rustix::io::Errno;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::rc::Rc;

/// A file, shared by its name and by those who have it open.
pub(super) type FileRef = Rc<RefCell<SimFile>>;
type DirRef = Rc<RefCell<SimDir>>;

/// The tree and the changes to it that are not flushed.
#[derive(Debug, Default)]
pub(super) struct Names {
    root: DirRef,
    pending: Vec<Vec<Change>>,
}

#[derive(Debug, Default)]
struct SimDir {
    current: BTreeMap<String, Entry>,
    durable: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
enum Entry {
    File(FileRef),
    Dir(DirRef),
}

/// One name of one directory, and what it stands for from now on.
#[derive(Debug)]
struct Change {
    dir: DirRef,
    name: String,
    entry: Option<Entry>,
}

impl Names {
    pub(super) fn file(&self, path: &Path) -> Result<FileRef, Errno> {
        match self.entry(path)? {
            Entry::File(file) => Ok(file),
            Entry::Dir(_) => Err(Errno::ISDIR),
        }
    }

    /// Creates a file under a name that is free.
    pub(super) fn create(&mut self, path: &Path) -> Result<FileRef, Errno> {
        let (dir, name) = self.parent(path)?;
        if dir.borrow().current.contains_key(&name) {
            return Err(Errno::EXIST);
        }
        let file = FileRef::default();
        self.change(vec![Change { dir, name, entry: Some(Entry::File(Rc::clone(&file))) }]);
        Ok(file)
    }

    pub(super) fn remove(&mut self, path: &Path) -> Result<(), Errno> {
        self.file(path)?;
        let (dir, name) = self.parent(path)?;
        self.change(vec![Change { dir, name, entry: None }]);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<(), Errno> {
        let entry = self.entry(from)?;
        let (from_dir, from_name) = self.parent(from)?;
        let (dir, name) = self.parent(to)?;
        let replaced = dir.borrow().current.get(&name).cloned();
        match (&entry, replaced) {
            (Entry::File(_), Some(Entry::Dir(_))) => return Err(Errno::ISDIR),
            (Entry::Dir(_), Some(Entry::File(_))) => return Err(Errno::NOTDIR),
            (Entry::Dir(_), Some(Entry::Dir(there))) if !there.borrow().current.is_empty() => {
                return Err(Errno::NOTEMPTY);
            }
            _ => {}
        }
        if Rc::ptr_eq(&from_dir, &dir) && from_name == name {
            return Ok(());
        }
        let leave = Change { dir: from_dir, name: from_name, entry: None };
        self.change(vec![leave, Change { dir, name, entry: Some(entry) }]);
        Ok(())
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> Result<(), Errno> {
        let mut dir = Rc::clone(&self.root);
        for name in components(path)? {
            let there = dir.borrow().current.get(&name).cloned();
            dir = match there {
                Some(Entry::Dir(next)) => next,
                Some(Entry::File(_)) => return Err(Errno::EXIST),
                None => {
                    let next = DirRef::default();
                    self.change(vec![Change { dir, name, entry: Some(Entry::Dir(Rc::clone(&next))) }]);
                    next
                }
            };
        }
        path.ancestors().skip(1).try_for_each(|above| self.sync_dir(above))
    }

    pub(super) fn list(&self, path: &Path) -> Result<Vec<String>, Errno> {
        Ok(self.dir(path)?.borrow().current.keys().cloned().collect())
    }

    /// A flush of a directory: every change that touches it is on the medium.
    pub(super) fn sync_dir(&mut self, path: &Path) -> Result<(), Errno> {
        let dir = self.dir(path)?;
        let mut later = Vec::new();
        for mut changes in std::mem::take(&mut self.pending) {
            if !changes.iter().any(|change| Rc::ptr_eq(&change.dir, &dir)) {
                later.push(changes);
                continue;
            }
            // A change that waits is overtaken where a newer one to the same name does not wait.
            for waiting in &mut later {
                waiting.retain(|old| !changes.iter().any(|new| old.is_about_the_same_name(new)));
            }
            changes.drain(..).for_each(Change::make_durable);
        }
        self.pending = later;
        Ok(())
    }

    /// The machine stops: some of the changes not flushed survive, then the contents of what is still named.
    pub(super) fn crash(&mut self, survivors: Survivors, rng: &mut Rng) {
        let facts = std::mem::take(&mut self.pending);
        // Half of the crashes keep the order of a journal, half keep any of the changes.
        let journal_ends_at = rng.chance(500).then(|| rng.index(facts.len() + 1));
        for (index, changes) in facts.into_iter().enumerate() {
            let survives = match survivors {
                Survivors::Nothing => false,
                Survivors::Everything | Survivors::PageCache => true,
                Survivors::Random => journal_ends_at.map_or_else(|| rng.chance(500), |end| index < end),
            };
            if survives {
                changes.into_iter().for_each(Change::make_durable);
            }
        }
        crash_below(&self.root, survivors, rng);
    }

    /// The bytes of all files that have a name.
    pub(super) fn used_bytes(&self) -> u64 {
        used_below(&self.root)
    }

    fn change(&mut self, changes: Vec<Change>) {
        for change in &changes {
            put(&mut change.dir.borrow_mut().current, &change.name, change.entry.clone());
        }
        self.pending.push(changes);
    }

    fn entry(&self, path: &Path) -> Result<Entry, Errno> {
        let mut entry = Entry::Dir(Rc::clone(&self.root));
        for name in components(path)? {
            let Entry::Dir(dir) = entry else { return Err(Errno::NOTDIR) };
            entry = dir.borrow().current.get(&name).cloned().ok_or(Errno::NOENT)?;
        }
        Ok(entry)
    }

    fn dir(&self, path: &Path) -> Result<DirRef, Errno> {
        match self.entry(path)? {
            Entry::Dir(dir) => Ok(dir),
            Entry::File(_) => Err(Errno::NOTDIR),
        }
    }

    fn parent(&self, path: &Path) -> Result<(DirRef, String), Errno> {
        let name = components(path)?.pop().ok_or(Errno::EXIST)?;
        let dir = path.parent().map_or_else(|| Ok(Rc::clone(&self.root)), |parent| self.dir(parent))?;
        Ok((dir, name))
    }
}

impl Change {
    fn make_durable(self) {
        put(&mut self.dir.borrow_mut().durable, &self.name, self.entry);
    }

    fn is_about_the_same_name(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.dir, &other.dir) && self.name == other.name
    }
}

fn put(names: &mut BTreeMap<String, Entry>, name: &str, entry: Option<Entry>) {
    match entry {
        Some(entry) => names.insert(name.to_owned(), entry),
        None => names.remove(name),
    };
}

fn crash_below(dir: &DirRef, survivors: Survivors, rng: &mut Rng) {
    let mut dir = dir.borrow_mut();
    dir.current = dir.durable.clone();
    for entry in dir.current.values() {
        match entry {
            Entry::File(file) => file.borrow_mut().crash(survivors, rng),
            Entry::Dir(below) => crash_below(below, survivors, rng),
        }
    }
}

fn used_below(dir: &DirRef) -> u64 {
    let used = |entry: &Entry| match entry {
        Entry::File(file) => file.borrow().len() as u64,
        Entry::Dir(below) => used_below(below),
    };
    dir.borrow().current.values().map(used).sum()
}

/// The names along a path; relative paths start at the root.
fn components(path: &Path) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => names.push(name.to_str().ok_or(Errno::ILSEQ)?.to_owned()),
            Component::ParentDir | Component::Prefix(_) => return Err(Errno::INVAL),
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crashed(names: &mut Names, seed: u64) -> Vec<String> {
        names.crash(Survivors::Random, &mut Rng::new(seed));
        names.list(Path::new("/")).unwrap()
    }

    #[test]
    fn a_created_file_may_vanish_until_its_directory_is_flushed() {
        let outcomes: Vec<usize> = (0..50)
            .map(|seed| {
                let mut names = Names::default();
                names.create(Path::new("/file")).unwrap();
                crashed(&mut names, seed).len()
            })
            .collect();
        assert!(outcomes.contains(&0) && outcomes.contains(&1));
        for seed in 0..50 {
            let mut names = Names::default();
            names.create(Path::new("/file")).unwrap();
            names.sync_dir(Path::new("/")).unwrap();
            assert_eq!(crashed(&mut names, seed), ["file"]);
        }
    }

    #[test]
    fn a_removed_file_may_come_back_until_its_directory_is_flushed() {
        let came_back = (0..50).any(|seed| {
            let mut names = Names::default();
            names.create(Path::new("/file")).unwrap();
            names.sync_dir(Path::new("/")).unwrap();
            names.remove(Path::new("/file")).unwrap();
            crashed(&mut names, seed) == ["file"]
        });
        assert!(came_back);
    }

    #[test]
    fn a_durable_file_is_under_its_old_or_its_new_name_after_a_rename() {
        let mut seen = [false; 2];
        for seed in 0..50 {
            let mut names = Names::default();
            names.create(Path::new("/old")).unwrap();
            names.sync_dir(Path::new("/")).unwrap();
            names.rename(Path::new("/old"), Path::new("/new")).unwrap();
            let after = crashed(&mut names, seed);
            assert!(after == ["old"] || after == ["new"], "{after:?}");
            seen[usize::from(after == ["new"])] = true;
        }
        assert_eq!(seen, [true; 2]);
    }

    #[test]
    fn a_file_moved_out_and_flushed_there_does_not_reappear_where_it_was_created() {
        for seed in 0..50 {
            let mut names = Names::default();
            names.create_dir_all(Path::new("/a")).unwrap();
            names.create_dir_all(Path::new("/b")).unwrap();
            names.sync_dir(Path::new("/")).unwrap();
            names.create(Path::new("/a/file")).unwrap();
            names.rename(Path::new("/a/file"), Path::new("/b/file")).unwrap();
            names.sync_dir(Path::new("/b")).unwrap();
            crashed(&mut names, seed);
            assert!(names.list(Path::new("/a")).unwrap().is_empty());
            assert_eq!(names.list(Path::new("/b")).unwrap(), ["file"]);
        }
    }
}
