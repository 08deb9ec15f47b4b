//! Load segments and notes of an ELF kernel, for PVH and Multiboot.

use super::Error;
use super::layout::Layout;
use elf::ElfBytes;
use elf::abi::{EM_386, EM_X86_64, PF_X, PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;

/// Most program headers looked at: kernels have a handful, and each is compared with all the others.
const SEGMENTS_MOST: usize = 256;
/// Most notes looked at in one segment.
const NOTES_MOST: usize = 256;

/// A parsed ELF file.
pub struct ElfImage<'a> {
    bytes: &'a [u8],
    file: ElfBytes<'a, LittleEndian>,
    segments: Vec<elf::segment::ProgramHeader>,
}

/// Whether the file has ELF's magic number.
pub fn is(kernel: &[u8]) -> bool {
    kernel.starts_with(b"\x7fELF")
}

fn malformed(why: impl ToString) -> Error {
    Error::Malformed { format: "ELF", why: why.to_string() }
}

impl<'a> ElfImage<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let file = ElfBytes::<LittleEndian>::minimal_parse(bytes).map_err(malformed)?;
        if ![EM_386, EM_X86_64].contains(&file.ehdr.e_machine) {
            return Err(Error::Unsupported(format!(
                "a processor of ELF machine number {}; a pc has an x86",
                file.ehdr.e_machine
            )));
        }
        let Some(table) = file.segments() else { return Err(malformed("it has no program headers")) };
        if table.len() > SEGMENTS_MOST {
            return Err(malformed(format!("{} program headers, more than {SEGMENTS_MOST}", table.len())));
        }
        let segments = table.iter().collect();
        Ok(Self { bytes, file, segments })
    }

    /// Whether code is for the 64-bit instruction set.
    pub fn is_x86_64(&self) -> bool {
        self.file.ehdr.e_machine == EM_X86_64
    }

    /// Puts every load segment at its physical address, its tail zeroed.
    pub fn place(&self, layout: &mut Layout<'_>) -> Result<(), Error> {
        let mut any = false;
        for s in self.segments.iter().filter(|s| s.p_type == PT_LOAD && s.p_memsz > 0) {
            any = true;
            if s.p_filesz > s.p_memsz {
                return Err(malformed("a segment is longer in the file than in memory"));
            }
            let need =
                s.p_offset.checked_add(s.p_filesz).ok_or_else(|| malformed("a segment's offset wraps"))?;
            let have = self.bytes.len() as u64;
            let Some(data) = self.bytes.get(s.p_offset as usize..need as usize).filter(|_| need <= have)
            else {
                return Err(Error::Truncated { what: "a load segment", need, have });
            };
            layout.place("a segment of the kernel", s.p_paddr, data, s.p_memsz)?;
        }
        if any { Ok(()) } else { Err(malformed("there is nothing to load in it")) }
    }

    /// The entry point as a physical address: linkers give it as a virtual one where the two differ.
    pub fn physical_entry(&self) -> u64 {
        let entry = self.file.ehdr.e_entry;
        let inside = |s: &&elf::segment::ProgramHeader| {
            s.p_type == PT_LOAD && s.p_flags & PF_X != 0 && entry.wrapping_sub(s.p_vaddr) < s.p_memsz
        };
        self.segments
            .iter()
            .find(inside)
            .map_or(entry, |s| entry.wrapping_sub(s.p_vaddr).wrapping_add(s.p_paddr))
    }

    /// The descriptor of the note with this name and type, of any note segment; `None` where there is none.
    pub fn note(&self, name: &[u8], kind: u64) -> Option<&'a [u8]> {
        self.segments.iter().filter(|s| s.p_type == PT_NOTE).find_map(|s| {
            let notes = self.file.segment_data_as_notes(s).ok()?;
            notes.take(NOTES_MOST).find_map(|n| match n {
                elf::note::Note::Unknown(n)
                    if n.n_type == kind && n.name.strip_suffix(b"\0").unwrap_or(n.name) == name =>
                {
                    Some(n.desc)
                }
                _ => None,
            })
        })
    }
}
