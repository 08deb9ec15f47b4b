//! A folder of finished files and its manifest, which tells whether they are whole and still what would be made today.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const MANIFEST: &str = "manifest.json";
/// Files of more bytes than this are told by their size alone.
const LARGE: u64 = 256 << 20;

/// What `manifest.json` holds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// SHA-256 of all that the files are made by; another one means that they must be made again.
    pub recipe: String,
    /// Where they come from: Debian's package and its version in the file's name, or a source.
    pub sources: Vec<String>,
    files: BTreeMap<String, File>,
}

#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct File {
    /// In bytes.
    size: u64,
    /// Empty for a file of a disk's size, which would be long in reading.
    sha256: String,
}

impl Manifest {
    /// Each file's name and size in bytes.
    pub fn sizes(&self) -> impl Iterator<Item = (&str, u64)> {
        self.files.iter().map(|(name, file)| (name.as_str(), file.size))
    }
}

/// Lower-case hexadecimal SHA-256.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A folder whose files are replaced whole or not at all.
pub struct Store {
    folder: PathBuf,
    manifest: &'static str,
}

impl Store {
    pub fn open(folder: PathBuf) -> Result<Store> {
        Store::with_manifest(folder, MANIFEST)
    }

    /// One of several stores in `folder`, with a manifest of its own.
    pub fn with_manifest(folder: PathBuf, manifest: &'static str) -> Result<Store> {
        std::fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
        Ok(Store { folder, manifest })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The manifest, when it is of this `recipe` and every file it names, and every one of `names`, is whole.
    pub fn current(&self, recipe: &str, names: &[&str]) -> Option<Manifest> {
        let text = std::fs::read(self.path(self.manifest)).ok()?;
        let manifest: Manifest = serde_json::from_slice(&text).ok()?;
        let listed = names.iter().all(|name| manifest.files.contains_key(*name));
        let whole =
            manifest.files.iter().all(|(name, file)| self.describe(name).is_ok_and(|now| now == *file));
        (manifest.recipe == recipe && listed && whole).then_some(manifest)
    }

    /// Writes all `files`, then the manifest that vouches for them.
    pub fn replace(&self, recipe: &str, sources: Vec<String>, files: &[(&str, &[u8])]) -> Result<Manifest> {
        let mut manifest = Manifest { recipe: recipe.into(), sources, files: BTreeMap::new() };
        for (name, contents) in files {
            self.write(name, contents)?;
            let file = File { size: contents.len() as u64, sha256: sha256(contents) };
            manifest.files.insert((*name).to_owned(), file);
        }
        self.write(self.manifest, &serde_json::to_vec_pretty(&manifest)?)?;
        Ok(manifest)
    }

    /// Removes the manifest, for the time in which files are put into their places one by one.
    pub fn forget(&self) -> Result<()> {
        match std::fs::remove_file(self.path(self.manifest)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Writes the manifest for files that are in their places.
    pub fn vouch(&self, recipe: &str, sources: Vec<String>, names: &[&str]) -> Result<()> {
        let mut manifest = Manifest { recipe: recipe.into(), sources, files: BTreeMap::new() };
        for name in names {
            let file = self.describe(name).with_context(|| format!("could not read {name}"))?;
            manifest.files.insert((*name).to_owned(), file);
        }
        self.write(self.manifest, &serde_json::to_vec_pretty(&manifest)?)
    }

    /// Writes a file beside its place, then moves it there: a reader sees the old one or the new one.
    fn write(&self, name: &str, contents: &[u8]) -> Result<()> {
        let path = self.path(name);
        let why = || format!("could not write {}", path.display());
        let mut file = tempfile::NamedTempFile::new_in(&self.folder).with_context(why)?;
        file.write_all(contents).with_context(why)?;
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o644)).with_context(why)?;
        file.persist(&path).with_context(why)?;
        Ok(())
    }

    fn describe(&self, name: &str) -> Result<File> {
        let path = self.path(name);
        let size = std::fs::metadata(&path)?.len();
        if size > LARGE {
            return Ok(File { size, sha256: String::new() });
        }
        let contents = std::fs::read(path)?;
        Ok(File { size: contents.len() as u64, sha256: sha256(&contents) })
    }
}

/// Held while guests are made, so that two commands at once don't do it twice. Released when dropped.
pub struct Lock {
    _file: std::fs::File,
}

impl Lock {
    /// Waits for whoever holds the lock of `folder`.
    pub fn take(folder: &Path) -> Result<Lock> {
        std::fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
        let path = folder.join(".lock");
        let file = std::fs::File::create(&path)
            .with_context(|| format!("could not make {}; is the folder another user's?", path.display()))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
        Ok(Lock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(folder.path().join("amd64")).expect("a store");
        (folder, store)
    }

    #[test]
    fn current_after_replace_is_the_manifest() {
        let (_folder, store) = store();
        assert!(store.current("r", &[]).is_none());
        store.replace("r", vec!["debian".into()], &[("vmlinuz", b"kernel")]).expect("written");
        assert_eq!(store.current("r", &["vmlinuz"]).expect("current").sources, ["debian"]);
        assert!(store.current("r", &["vmlinuz", "initrd.img"]).is_none());
        assert!(store.current("another recipe", &["vmlinuz"]).is_none());
    }

    #[test]
    fn current_changed_file_is_not_current() {
        let (_folder, store) = store();
        store.replace("r", vec![], &[("vmlinuz", b"kernel")]).expect("written");
        std::fs::write(store.path("vmlinuz"), b"kernal").expect("written");
        assert!(store.current("r", &["vmlinuz"]).is_none());
        std::fs::remove_file(store.path("vmlinuz")).expect("removed");
        assert!(store.current("r", &["vmlinuz"]).is_none());
    }

    #[test]
    fn vouch_beside_another_manifest_tells_only_its_own_files() {
        let (folder, store) = store();
        store.replace("r", vec![], &[("vmlinuz", b"kernel")]).expect("written");
        let disk = Store::with_manifest(folder.path().join("amd64"), "disk.json").expect("a store");
        File::create(disk.path("disk.img")).expect("a file").set_len(LARGE + 1).expect("sparse");
        disk.vouch("d", vec![], &["disk.img"]).expect("written");
        assert!(disk.current("d", &["disk.img"]).is_some());
        assert!(store.current("r", &["vmlinuz"]).is_some());
        File::create(disk.path("disk.img")).expect("a file").set_len(LARGE + 2).expect("sparse");
        assert!(disk.current("d", &["disk.img"]).is_none());
        disk.forget().expect("removed");
        disk.forget().expect("removed before");
        assert!(disk.current("d", &[]).is_none());
        assert!(store.current("r", &["vmlinuz"]).is_some());
    }

    #[test]
    fn current_broken_manifest_is_not_current() {
        let (_folder, store) = store();
        std::fs::write(store.path(MANIFEST), b"{").expect("written");
        assert!(store.current("r", &[]).is_none());
    }
}
