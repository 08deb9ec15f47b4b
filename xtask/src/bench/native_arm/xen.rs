//! The board's device tree with a domain for Xen to start by itself (Xen, docs/misc/arm/device-tree/booting.txt).

use anyhow::{Context, Result, bail};

/// Flattened device tree: the tokens of its structure block (Devicetree Specification, 5.4).
mod token {
    pub const BEGIN_NODE: u32 = 1;
    pub const END_NODE: u32 = 2;
    pub const PROP: u32 = 3;
    pub const NOP: u32 = 4;
}

const MAGIC: u32 = 0xd00d_feed;
const HEADER: usize = 40;

/// Memory of the domain, in KiB.
const MEMORY_KIB: u32 = 64 << 10;

/// `tree` with a domain in its `/chosen` whose kernel, `len` bytes long, is at `kernel`.
///
/// Errors: a tree that is broken or has no `/chosen`.
pub fn with_domain(tree: &[u8], kernel: u32, len: u32) -> Result<Vec<u8>> {
    if word(tree, 0)? != MAGIC {
        bail!("QEMU's device tree is none");
    }
    let part = |at: usize, len: usize| -> Result<&[u8]> {
        let (at, len) = (word(tree, at)? as usize, word(tree, len)? as usize);
        at.checked_add(len).and_then(|end| tree.get(at..end)).context("QEMU's device tree ends early")
    };
    let (structure, strings) = (part(8, 36)?, part(12, 32)?);
    let end = end_of_chosen(structure)?;

    let mut more = Builder { structure: Vec::new(), strings: strings.to_vec() };
    more.begin("domU1");
    more.property("compatible", b"xen,domain\0");
    more.words("#address-cells", &[1]);
    more.words("#size-cells", &[1]);
    more.words("memory", &[0, MEMORY_KIB]);
    more.words("cpus", &[1]);
    more.property("vpl011", b"");
    more.begin(&format!("module@{kernel:x}"));
    more.property("compatible", b"multiboot,kernel\0multiboot,module\0");
    more.words("reg", &[kernel, len]);
    more.end();
    more.end();

    let structure = [&structure[..end], &more.structure, &structure[end..]].concat();
    // No memory is reserved: the list is its end alone.
    let structure_at = HEADER + 16;
    let strings_at = structure_at + structure.len();
    let total = strings_at + more.strings.len();
    let (version, compatible) = (17, 16);
    let header = [
        MAGIC,
        total as u32,
        structure_at as u32,
        strings_at as u32,
        HEADER as u32,
        version,
        compatible,
        0,
        more.strings.len() as u32,
        structure.len() as u32,
    ];
    let mut made = header.map(u32::to_be_bytes).concat();
    made.extend([0; 16]);
    made.extend(structure);
    made.extend(more.strings);
    Ok(made)
}

/// Where in the structure block `/chosen` ends.
fn end_of_chosen(structure: &[u8]) -> Result<usize> {
    let (mut at, mut depth, mut chosen) = (0, 0, None);
    loop {
        let token = word(structure, at)?;
        let next = at + 4;
        at = match token {
            token::BEGIN_NODE => {
                let rest = structure.get(next..).unwrap_or_default();
                let len = rest.iter().position(|&byte| byte == 0).context("a node's name has no end")?;
                if depth == 1 && &rest[..len] == b"chosen" {
                    chosen = Some(depth);
                }
                depth += 1;
                aligned(next + len + 1)
            }
            token::END_NODE => {
                depth -= 1;
                if chosen == Some(depth) {
                    return Ok(at);
                }
                next
            }
            token::PROP => aligned(next + 8 + word(structure, next)? as usize),
            token::NOP => next,
            _ => bail!("QEMU's device tree has no /chosen"),
        };
    }
}

struct Builder {
    structure: Vec<u8>,
    strings: Vec<u8>,
}

impl Builder {
    fn word(&mut self, word: u32) {
        self.structure.extend(word.to_be_bytes());
    }

    fn padded(&mut self, bytes: &[u8]) {
        self.structure.extend(bytes);
        self.structure.resize(aligned(self.structure.len()), 0);
    }

    fn begin(&mut self, name: &str) {
        self.word(token::BEGIN_NODE);
        self.padded(format!("{name}\0").as_bytes());
    }

    fn end(&mut self) {
        self.word(token::END_NODE);
    }

    fn property(&mut self, name: &str, value: &[u8]) {
        self.word(token::PROP);
        self.word(value.len() as u32);
        self.word(self.strings.len() as u32);
        self.strings.extend(format!("{name}\0").as_bytes());
        self.padded(value);
    }

    fn words(&mut self, name: &str, value: &[u32]) {
        let bytes: Vec<u8> = value.iter().flat_map(|word| word.to_be_bytes()).collect();
        self.property(name, &bytes);
    }
}

fn aligned(at: usize) -> usize {
    at.next_multiple_of(4)
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
    Ok(u32::from_be_bytes(*word.context("QEMU's device tree ends early")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree with `/chosen` between two other nodes.
    fn tree() -> Vec<u8> {
        let mut b = Builder { structure: Vec::new(), strings: Vec::new() };
        b.begin("");
        b.begin("cpus");
        b.begin("chosen");
        b.end();
        b.end();
        b.begin("chosen");
        b.property("stdout-path", b"/serial\0");
        b.end();
        b.begin("memory");
        b.end();
        b.end();
        b.word(9);
        let strings_at = HEADER + b.structure.len();
        let lengths = [b.strings.len() as u32, b.structure.len() as u32];
        let header = [MAGIC, 0, HEADER as u32, strings_at as u32, 0, 17, 16, 0, lengths[0], lengths[1]];
        [header.map(u32::to_be_bytes).concat(), b.structure, b.strings].concat()
    }

    #[test]
    fn with_domain_it_is_in_chosen_and_all_else_is_as_before() {
        let old = tree();
        let new = with_domain(&old, 0x5000_0000, 0x1234).expect("a tree");
        assert_eq!(word(&new, 4).unwrap() as usize, new.len());
        let structure = &new[word(&new, 8).unwrap() as usize..];
        let before = &old[HEADER..HEADER + word(&old, 36).unwrap() as usize];
        let at = end_of_chosen(before).unwrap();
        assert_eq!(structure[..at], before[..at]);
        assert_eq!(structure[at + 4..at + 10], *b"domU1\0");
        assert!(new.windows(8).any(|bytes| bytes == [0x50, 0, 0, 0, 0, 0, 0x12, 0x34]));
        // What was added is a whole node, so the end is where it was, so much later.
        let added = new.len() - 16 - old.len() - (word(&new, 32).unwrap() - word(&old, 32).unwrap()) as usize;
        assert_eq!(end_of_chosen(structure).unwrap(), at + added);
    }

    #[test]
    fn with_domain_broken_tree_is_an_error() {
        let whole = tree();
        for len in 0..whole.len() {
            assert!(with_domain(&whole[..len], 0, 0).is_err(), "{len}");
        }
        let mut without = whole.clone();
        let at = without.windows(6).rposition(|bytes| bytes == b"chosen").expect("there");
        without[at] = b'C';
        assert!(with_domain(&without, 0, 0).unwrap_err().to_string().contains("/chosen"));
    }
}
