//! `vmctl create`: empty disks.

use crate::options::Create;
use anyhow::{Context, bail};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;
use vm_conf::{DiskFormat, DiskSpec, size};

/// A disk's size is a multiple of this.
const SECTOR: u64 = 512;

/// Makes the disk; one that is there already is left alone.
pub fn create(create: &Create) -> anyhow::Result<ExitCode> {
    if create.base.is_some() || create.input.is_some() {
        bail!("this version makes empty raw disks only: leave out -b and -i");
    }
    let spec = DiskSpec::parse(&create.disk);
    if vm_conf::disk::detect(spec.stated, &spec.path, &[]) == DiskFormat::Qcow2 {
        bail!(
            "this version makes raw disks only: write raw:{} if that is what you want",
            spec.path.display()
        );
    }
    let text = create.size.as_deref().context("give the disk's size with -s, as in -s 10G")?;
    let bytes = size::parse(text)?.div_ceil(SECTOR).saturating_mul(SECTOR);
    if bytes == 0 {
        bail!("a disk of no bytes is none: give a size with -s, as in -s 10G");
    }
    let path = spec.path.display();
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&spec.path)
        .with_context(|| format!("the disk {path} can't be made"))?;
    if let Err(e) = file.set_len(bytes).and_then(|()| file.sync_all()) {
        let _ = std::fs::remove_file(&spec.path);
        return Err(e).with_context(|| format!("the disk {path} can't be made {text} large"));
    }
    eprintln!("vmctl: raw imagefile created");
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(disk: String, size: Option<&str>) -> anyhow::Result<ExitCode> {
        create(&Create { base: None, input: None, size: size.map(String::from), disk })
    }

    #[test]
    fn create_makes_a_sparse_disk_of_whole_sectors_once() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("d.img");
        make(disk.display().to_string(), Some("1.0001M")).unwrap();
        let meta = std::fs::metadata(&disk).unwrap();
        assert_eq!(meta.len(), 1049088);
        assert!(make(disk.display().to_string(), Some("2M")).is_err());
        assert_eq!(std::fs::metadata(&disk).unwrap().len(), 1049088);
    }

    #[test]
    fn create_what_can_not_be_made_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        assert!(make(at("a"), None).is_err());
        assert!(make(at("a"), Some("0")).is_err());
        assert!(make(at("a.qcow2"), Some("1M")).is_err());
        assert!(make(format!("qcow2:{}", at("a")), Some("1M")).is_err());
        assert!(make(at("a"), Some("15E")).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        make(format!("raw:{}", at("a.qcow2")), Some("1M")).unwrap();
    }
}
