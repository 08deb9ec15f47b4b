//! Reading a flattened device tree (Devicetree Specification 0.4, chapter 5), in place, with bounds.

use address::HostPhys;
use arrayvec::ArrayVec;

use crate::arch;
use crate::regions::Region;

/// Nodes within nodes, at most.
pub const MAX_DEPTH: usize = 16;
/// Bytes of a tree, at most.
pub const MAX_SIZE: usize = 2 << 20;
pub const MAGIC: u32 = 0xd00d_feed;

pub(crate) const BEGIN_NODE: u32 = 1;
pub(crate) const END_NODE: u32 = 2;
pub(crate) const PROPERTY: u32 = 3;
const NOP: u32 = 4;
pub(crate) const END: u32 = 9;

/// A device tree whose structure has been checked once.
#[derive(Clone, Copy)]
pub struct Fdt<'a> {
    /// All of it.
    pub bytes: &'a [u8],
    structure: &'a [u8],
    /// The strings block.
    pub strings: &'a [u8],
    /// The memory reservation block, from its first entry.
    pub reservations: &'a [u8],
    /// boot_cpuid_phys.
    pub boot_cpu: u32,
}

/// One step through the structure block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    Begin(&'a str),
    /// With the offset of its name in the strings block.
    Property(&'a str, &'a [u8], u32),
    End,
}

/// The big-endian word at `offset`.
pub fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(offset..offset.checked_add(4)?)?.try_into().ok()?))
}

fn string(bytes: &[u8], offset: usize) -> Option<&str> {
    let bytes = bytes.get(offset..)?;
    core::str::from_utf8(&bytes[..bytes.iter().position(|b| *b == 0)?]).ok()
}

/// Length of the tree that starts with these 8 bytes, if one does and it isn't too long.
pub fn total_size(header: &[u8]) -> Option<usize> {
    let size = word(header, 4)? as usize;
    (word(header, 0)? == MAGIC && (40..=MAX_SIZE).contains(&size)).then_some(size)
}

/// The firmware's device tree, if there is one at `tree`, where the boot protocol says that it is.
///
/// # Safety
/// Nobody writes to it as long as it is used: the control domain isn't running yet.
pub unsafe fn firmware_tree(tree: HostPhys) -> Option<Fdt<'static>> {
    if tree.0 == 0 || tree.0 & 7 != 0 {
        return None;
    }
    // SAFETY: the caller's promise; no more than the header is read before its magic number was seen.
    let header = unsafe { arch::bytes(Region::sized(tree.0, 8)?) };
    // SAFETY: as above; the length is the tree's own, with a bound.
    Fdt::new(unsafe { arch::bytes(Region::sized(tree.0, total_size(header)? as u64)?) })
}

impl<'a> Fdt<'a> {
    /// The tree in `bytes`, or `None` if it is malformed or nested too deeply.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let bytes = bytes.get(..total_size(bytes)?)?;
        let block = |offset: u32, size: u32| {
            bytes.get(offset as usize..(offset as usize).checked_add(size as usize)?)
        };
        if word(bytes, 24)? > 17 || word(bytes, 20)? < 17 {
            return None;
        }
        let fdt = Self {
            bytes,
            structure: block(word(bytes, 8)?, word(bytes, 36)?)?,
            strings: block(word(bytes, 12)?, word(bytes, 32)?)?,
            reservations: bytes.get(word(bytes, 16)? as usize..)?,
            boot_cpu: word(bytes, 28)?,
        };
        let mut depth = 0usize;
        let mut tokens = fdt.tokens();
        loop {
            match tokens.step()? {
                Some(Token::Begin(_)) => depth += 1,
                Some(Token::Property(..)) if depth == 0 => return None,
                Some(Token::Property(..)) => {}
                Some(Token::End) => depth = depth.checked_sub(1)?,
                None => break,
            }
            if depth > MAX_DEPTH {
                return None;
            }
        }
        (depth == 0).then_some(fdt)
    }

    pub fn tokens(self) -> Tokens<'a> {
        Tokens { fdt: self, offset: 0 }
    }

    /// Every node, parents before their children.
    pub fn nodes(self) -> Nodes<'a> {
        Nodes { tokens: self.tokens(), path: ArrayVec::new() }
    }

    /// The node with this full path; a component without unit address names the first of its name.
    pub fn find(self, path: &str) -> Option<Node<'a>> {
        let path = path.strip_prefix('/')?;
        self.nodes().find(|node| {
            let mut names = path.split('/').filter(|n| !n.is_empty());
            node.path[1..].iter().all(|level| {
                names.next().is_some_and(|n| n == level.name || level.name.split('@').next() == Some(n))
            }) && names.next().is_none()
        })
    }

    /// The memory reservation block's entries.
    pub fn reserved(self) -> impl Iterator<Item = Region> + 'a {
        self.reservations
            .chunks_exact(16)
            .map(|e| (cells(e, 0, 2), cells(e, 2, 2)))
            .take_while(|e| *e != (Some(0), Some(0)))
            .filter_map(|(start, size)| Region::sized(start?, size?))
    }
}

/// The steps of the structure block.
#[derive(Clone)]
pub struct Tokens<'a> {
    fdt: Fdt<'a>,
    offset: usize,
}

impl<'a> Tokens<'a> {
    /// The next token, `Some(None)` at the end, `None` if malformed.
    fn step(&mut self) -> Option<Option<Token<'a>>> {
        loop {
            let token = word(self.fdt.structure, self.offset)?;
            self.offset += 4;
            let found = match token {
                BEGIN_NODE => {
                    let name = string(self.fdt.structure, self.offset)?;
                    self.offset += (name.len() + 4) & !3;
                    Token::Begin(name)
                }
                PROPERTY => {
                    let length = word(self.fdt.structure, self.offset)? as usize;
                    let name = word(self.fdt.structure, self.offset + 4)?;
                    let start = self.offset + 8;
                    let value = self.fdt.structure.get(start..start.checked_add(length)?)?;
                    self.offset = start + (length.checked_add(3)? & !3);
                    Token::Property(string(self.fdt.strings, name as usize)?, value, name)
                }
                END_NODE => Token::End,
                NOP => continue,
                END => return Some(None),
                _ => return None,
            };
            return Some(Some(found));
        }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;
    fn next(&mut self) -> Option<Token<'a>> {
        self.step().flatten()
    }
}

#[derive(Clone, Copy)]
struct Level<'a> {
    name: &'a str,
    address_cells: usize,
    size_cells: usize,
    ranges: Option<&'a [u8]>,
}

/// A node, and those it lies in.
#[derive(Clone)]
pub struct Node<'a> {
    properties: Tokens<'a>,
    /// From the root to itself.
    path: ArrayVec<Level<'a>, MAX_DEPTH>,
}

/// The number in `count` (1 or 2) cells from cell `at` on.
pub fn cells(value: &[u8], at: usize, count: usize) -> Option<u64> {
    match count {
        1 => Some(word(value, at * 4)? as u64),
        2 => Some((word(value, at * 4)? as u64) << 32 | word(value, at * 4 + 4)? as u64),
        _ => None,
    }
}

impl<'a> Node<'a> {
    /// Its name with unit address; the root's is empty.
    pub fn name(&self) -> &'a str {
        self.path.last().map_or("", |level| level.name)
    }
    /// The name of the node it is in.
    pub fn parent(&self) -> &'a str {
        self.path.iter().rev().nth(1).map_or("", |level| level.name)
    }
    /// 1 for the root.
    pub fn depth(&self) -> usize {
        self.path.len()
    }
    pub fn property(&self, name: &str) -> Option<&'a [u8]> {
        self.properties.clone().find_map(|token| match token {
            Token::Property(n, value, _) => (n == name).then_some(Some(value)),
            _ => Some(None),
        })?
    }
    pub fn text(&self, name: &str) -> Option<&'a str> {
        string(self.property(name)?, 0)
    }
    pub fn is_compatible(&self, with: &str) -> bool {
        self.property("compatible").is_some_and(|value| strings(value).any(|s| s == with))
    }
    /// Whether it may be used, by its property `status`.
    pub fn is_enabled(&self) -> bool {
        self.text("status").is_none_or(|s| s == "okay" || s == "ok")
    }
    /// #address-cells and #size-cells for its children.
    pub fn child_cells(&self) -> (usize, usize) {
        self.path.last().map_or((2, 1), |level| (level.address_cells, level.size_cells))
    }
    fn parent_cells(&self) -> (usize, usize) {
        self.path.iter().rev().nth(1).map_or((2, 1), |level| (level.address_cells, level.size_cells))
    }
    /// `reg`, addresses as the node's own bus has them; a size is 0 where the bus has none.
    pub fn bus_reg(&self) -> impl Iterator<Item = (u64, u64)> + 'a {
        let (address, size) = self.parent_cells();
        let value = self.property("reg").unwrap_or(&[]);
        value.chunks_exact((address + size).max(1) * 4).filter_map(move |entry| {
            Some((cells(entry, 0, address)?, if size == 0 { 0 } else { cells(entry, address, size)? }))
        })
    }
    /// `reg`, as regions of physical memory; an entry that isn't one is left out.
    pub fn reg(&self) -> impl Iterator<Item = Region> + use<'a, '_> {
        self.bus_reg().filter_map(|(address, size)| Region::sized(self.translate(address)?, size))
    }
    /// The windows of physical space (of the bus above) that its `ranges` open.
    pub fn windows(&self) -> impl Iterator<Item = Region> + 'a {
        let ((child, size), (parent, _)) = (self.child_cells(), self.parent_cells());
        let value = self.property("ranges").unwrap_or(&[]);
        value.chunks_exact((child + parent + size).max(1) * 4).filter_map(move |entry| {
            Region::sized(cells(entry, child, parent)?, cells(entry, child + parent, size)?)
        })
    }
    /// The physical address of `address` on the bus that the node is on.
    fn translate(&self, mut address: u64) -> Option<u64> {
        // The root's children are on the processor's own bus; every bus between has to open a window.
        for n in (1..self.path.len().saturating_sub(1)).rev() {
            let (bus, above) = (self.path[n], self.path[n - 1]);
            let ranges = bus.ranges?;
            if ranges.is_empty() {
                continue;
            }
            let (child, parent, size) = (bus.address_cells, above.address_cells, bus.size_cells);
            address = ranges.chunks_exact((child + parent + size).max(1) * 4).find_map(|entry| {
                let offset = address.checked_sub(cells(entry, 0, child)?)?;
                let inside = offset < cells(entry, child + parent, size)?;
                if inside { cells(entry, child, parent)?.checked_add(offset) } else { None }
            })?;
        }
        Some(address)
    }
}

/// The strings of a string list.
pub fn strings(value: &[u8]) -> impl Iterator<Item = &str> {
    value.split(|b| *b == 0).filter(|s| !s.is_empty()).filter_map(|s| core::str::from_utf8(s).ok())
}

/// Nodes in the order of the structure block.
#[derive(Clone)]
pub struct Nodes<'a> {
    tokens: Tokens<'a>,
    path: ArrayVec<Level<'a>, MAX_DEPTH>,
}

impl<'a> Iterator for Nodes<'a> {
    type Item = Node<'a>;
    fn next(&mut self) -> Option<Node<'a>> {
        loop {
            match self.tokens.next()? {
                Token::Begin(name) => {
                    let level = Level { name, address_cells: 2, size_cells: 1, ranges: None };
                    self.path.try_push(level).ok()?;
                    let mut node = Node { properties: self.tokens.clone(), path: self.path.clone() };
                    let count =
                        |name| node.property(name).and_then(|v| word(v, 0)).map(|n| n.min(8) as usize);
                    let level = Level {
                        address_cells: count("#address-cells").unwrap_or(2),
                        size_cells: count("#size-cells").unwrap_or(1),
                        ranges: node.property("ranges"),
                        ..level
                    };
                    *self.path.last_mut()? = level;
                    *node.path.last_mut()? = level;
                    return Some(node);
                }
                Token::End => drop(self.path.pop()),
                Token::Property(..) => {}
            }
        }
    }
}
