//! How a person names a disk and its format.

use std::path::{Path, PathBuf};

/// Disk image formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFormat {
    Raw,
    Qcow2,
}

/// First bytes of a qcow2 image: "QFI" and 0xfb, big-endian at offset 0 (QEMU's docs/interop/qcow2, "Header").
pub const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// A disk as written on a command line: the path, and the format where a prefix says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    pub path: PathBuf,
    /// From a `raw:` or `qcow2:` prefix.
    pub stated: Option<DiskFormat>,
}

impl DiskSpec {
    pub fn parse(text: &str) -> Self {
        let (stated, path) = if let Some(path) = text.strip_prefix("raw:") {
            (Some(DiskFormat::Raw), path)
        } else if let Some(path) = text.strip_prefix("qcow2:") {
            (Some(DiskFormat::Qcow2), path)
        } else {
            (None, text)
        };
        DiskSpec { path: PathBuf::from(path), stated }
    }
}

/// The format of a disk: what was stated, else qcow2 where the image starts with its magic, else what the extension says,
/// else raw. `head` is the image's beginning, empty for one that is yet to be made.
///
/// A guest can write the magic into a raw disk, so callers keep the answer and never ask again for the same disk.
pub fn detect(stated: Option<DiskFormat>, path: &Path, head: &[u8]) -> DiskFormat {
    if let Some(format) = stated {
        return format;
    }
    if head.starts_with(&QCOW2_MAGIC) {
        return DiskFormat::Qcow2;
    }
    match path.extension().and_then(|e| e.to_str()) {
        Some(e) if e.eq_ignore_ascii_case("qcow2") => DiskFormat::Qcow2,
        _ => DiskFormat::Raw,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_states_the_format() {
        assert_eq!(
            DiskSpec::parse("raw:/a/b"),
            DiskSpec { path: "/a/b".into(), stated: Some(DiskFormat::Raw) }
        );
        assert_eq!(DiskSpec::parse("qcow2:x").stated, Some(DiskFormat::Qcow2));
        assert_eq!(DiskSpec::parse("other:x"), DiskSpec { path: "other:x".into(), stated: None });
    }

    #[test]
    fn detect_prefers_what_is_stated_then_magic_then_extension() {
        let magic = [b'Q', b'F', b'I', 0xfb, 0, 0, 0, 3];
        let raw = Path::new("d.img");
        assert_eq!(detect(Some(DiskFormat::Raw), raw, &magic), DiskFormat::Raw);
        assert_eq!(detect(None, raw, &magic), DiskFormat::Qcow2);
        assert_eq!(detect(None, Path::new("d.qcow2"), &[]), DiskFormat::Qcow2);
        assert_eq!(detect(None, raw, &[0; 512]), DiskFormat::Raw);
        assert_eq!(detect(None, Path::new("d"), b"QF"), DiskFormat::Raw);
    }
}
