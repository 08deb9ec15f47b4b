//! The control domain's device tree: the firmware's, less what is ours, plus what the kernel needs to know.

use address::HostPhys;
use arrayvec::ArrayVec;

use crate::fdt::{BEGIN_NODE, END, END_NODE, Fdt, MAGIC, MAX_DEPTH, Node, PROPERTY, Token, strings};
use crate::regions::Region;
use crate::smmu;

/// What the control domain is told.
#[derive(Clone, Copy, Debug)]
pub struct Changes<'a> {
    pub bootargs: &'a str,
    pub ramdisk: Option<Region>,
    /// The hypervisor's own memory.
    pub own: Region,
    pub doorbell: HostPhys,
}

/// Names of properties that the firmware's strings block may lack.
const NAMES: &str = "bootargs\0linux,initrd-start\0linux,initrd-end\0compatible\0reg\0no-map\0ranges\0#address-cells\0\
                     #size-cells\0interrupts\0interrupt-names\0";
/// Bytes that the changes add at most, but for the bootargs.
const ADDED: usize = 1024;

/// Bytes that are enough for [`write`].
pub fn room(source: Fdt, changes: &Changes) -> usize {
    crate::fdt::MAX_SIZE.min(
        source.tokens().fold(0, |n, token| {
            n + match token {
                Token::Begin(name) => 12 + name.len(),
                Token::Property(_, value, _) => 16 + value.len(),
                Token::End => 4,
            }
        }) + source.strings.len()
            + source.reserved().count() * 16
            + changes.bootargs.len()
            + ADDED,
    )
}

struct Writer<'o> {
    out: &'o mut [u8],
    at: usize,
    /// Length of the firmware's strings block, which comes before [`NAMES`].
    strings: usize,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        self.out.get_mut(self.at..self.at.checked_add(bytes.len())?)?.copy_from_slice(bytes);
        self.at += bytes.len();
        Some(())
    }
    fn word(&mut self, word: u32) -> Option<()> {
        self.bytes(&word.to_be_bytes())
    }
    fn align(&mut self) -> Option<()> {
        self.bytes(&[0; 3][..self.at.wrapping_neg() & 3])
    }
    fn begin(&mut self, name: &str) -> Option<()> {
        self.word(BEGIN_NODE)?;
        self.bytes(name.as_bytes())?;
        self.bytes(&[0])?;
        self.align()
    }
    fn end(&mut self) -> Option<()> {
        self.word(END_NODE)
    }
    /// The value is what `parts` are in a row.
    fn property_at(&mut self, name: u32, parts: &[&[u8]]) -> Option<()> {
        self.word(PROPERTY)?;
        self.word(parts.iter().map(|part| part.len()).sum::<usize>() as u32)?;
        self.word(name)?;
        parts.iter().try_for_each(|part| self.bytes(part))?;
        self.align()
    }
    /// With one of [`NAMES`].
    fn property(&mut self, name: &str, parts: &[&[u8]]) -> Option<()> {
        let before = NAMES.split('\0').take_while(|n| *n != name).map(|n| n.len() + 1).sum::<usize>();
        self.property_at((self.strings + before) as u32, parts)
    }
    fn text(&mut self, name: &str, value: &str) -> Option<()> {
        self.property(name, &[value.as_bytes(), &[0]])
    }
    /// A `reg` of one region, in cells as the parent counts them.
    fn reg(&mut self, region: Region, (address, size): (usize, usize)) -> Option<()> {
        let (start, length) = (region.start.to_be_bytes(), region.size().to_be_bytes());
        fn narrow(number: &[u8; 8], cells: usize) -> Option<&[u8]> {
            match cells {
                1 if number[..4] == [0; 4] => Some(&number[4..]),
                2 => Some(number),
                _ => None,
            }
        }
        self.property("reg", &[narrow(&start, address)?, narrow(&length, size)?])
    }
    fn reserve(&mut self, own: Region, cells: (usize, usize)) -> Option<()> {
        self.begin("auberge-hypervisor")?;
        self.reg(own, cells)?;
        self.property("no-map", &[])?;
        self.end()
    }
}

/// Writes the control domain's tree to `out`, and says how long it is; `None` if there is no room (see [`room`]) or the tree's cells are
/// too narrow.
pub fn write(source: Fdt, changes: &Changes, out: &mut [u8]) -> Option<usize> {
    let mut w = Writer { out, at: 40, strings: source.strings.len() };
    let reservations = w.at;
    for region in source.reserved() {
        w.bytes(&region.start.to_be_bytes())?;
        w.bytes(&region.size().to_be_bytes())?;
    }
    w.bytes(&[0; 16])?;
    let structure = w.at;

    let mut nodes = source.nodes();
    let mut names = ArrayVec::<&str, MAX_DEPTH>::new();
    // Depth of the node that is being left out, and what its parents' children are.
    let (mut left_out, mut current) = (None, None);
    let (mut root_cells, mut reserved_cells) = ((2, 1), None);
    for token in source.tokens() {
        match token {
            Token::Begin(name) => {
                let node = nodes.next()?;
                names.try_push(name).ok()?;
                match (names.len(), name) {
                    (1, _) => root_cells = node.child_cells(),
                    (2, "reserved-memory") => reserved_cells = Some(node.child_cells()),
                    _ => {}
                }
                let is_module = node.parent() == "chosen" && node.is_compatible("multiboot,module");
                if is_module || smmu::is_one(&node) {
                    left_out = left_out.or(Some(names.len()));
                }
                if left_out.is_none() {
                    w.begin(name)?;
                    if is_chosen(&node) {
                        chosen(&mut w, changes)?;
                    } else if is_timer(&node) {
                        timer(&mut w, &node)?;
                    }
                }
                current = Some(node);
            }
            Token::Property(name, value, place) => {
                let node = current.as_ref()?;
                let ours = match name {
                    "bootargs" | "linux,initrd-start" | "linux,initrd-end" => is_chosen(node),
                    "interrupts" | "interrupt-names" => is_timer(node),
                    _ => false,
                };
                if left_out.is_none() && !ours {
                    w.property_at(place, &[value])?;
                }
            }
            Token::End => {
                if left_out.is_none() {
                    match (names.len(), *names.last()?, reserved_cells) {
                        (2, "reserved-memory", Some(cells)) => w.reserve(changes.own, cells)?,
                        (1, _, reserved) => root_end(&mut w, changes, root_cells, reserved.is_none())?,
                        _ => {}
                    }
                    w.end()?;
                }
                left_out = left_out.filter(|depth| *depth != names.len());
                names.pop();
            }
        }
    }
    w.word(END)?;
    let strings = w.at;
    w.bytes(source.strings)?;
    w.bytes(NAMES.as_bytes())?;
    let total = w.at;
    let header = [
        MAGIC,
        total as u32,
        structure as u32,
        strings as u32,
        reservations as u32,
        17,
        16,
        source.boot_cpu,
        (total - strings) as u32,
        (strings - structure) as u32,
    ];
    w.at = 0;
    header.into_iter().try_for_each(|word| w.word(word))?;
    Some(total)
}

fn is_chosen(node: &Node) -> bool {
    node.depth() == 2 && node.name() == "chosen"
}

fn chosen(w: &mut Writer, changes: &Changes) -> Option<()> {
    w.text("bootargs", changes.bootargs)?;
    if let Some(ramdisk) = changes.ramdisk {
        w.property("linux,initrd-start", &[&ramdisk.start.to_be_bytes()])?;
        w.property("linux,initrd-end", &[&ramdisk.end.to_be_bytes()])?;
    }
    Some(())
}

fn is_timer(node: &Node) -> bool {
    ["arm,armv8-timer", "arm,armv7-timer"].iter().any(|c| node.is_compatible(c))
}

/// Leaves the physical timer's interrupts, secure and not: of a kernel at EL1, Linux uses the virtual one if there is one, else the
/// physical one that isn't secure (32-bit kernels: either).
fn timer(w: &mut Writer, node: &Node) -> Option<()> {
    let interrupts = node.property("interrupts").unwrap_or(&[]);
    let Some(names) = node.property("interrupt-names") else {
        // By their order: secure physical, physical, virtual, hypervisor's; of three cells each, as every GIC has it.
        return w.property("interrupts", &[interrupts.get(..2 * 12).unwrap_or(interrupts)]);
    };
    let entry =
        |name| strings(names).position(|n| n == name).and_then(|n| interrupts.get(n * 12..n * 12 + 12));
    match (entry("sec-phys"), entry("phys")) {
        (Some(secure), Some(other)) => w.property("interrupts", &[secure, other]),
        (_, other) => {
            w.property("interrupts", &[other?])?;
            w.text("interrupt-names", "phys")
        }
    }
}

/// The nodes that we add to the root.
fn root_end(w: &mut Writer, changes: &Changes, cells: (usize, usize), reserve: bool) -> Option<()> {
    if reserve {
        w.begin("reserved-memory")?;
        w.property("#address-cells", &[&2u32.to_be_bytes()])?;
        w.property("#size-cells", &[&2u32.to_be_bytes()])?;
        w.property("ranges", &[])?;
        w.reserve(changes.own, (2, 2))?;
        w.end()?;
    }
    w.begin("hypervisor")?;
    w.text("compatible", hypercall::COMPATIBLE)?;
    w.reg(Region::sized(changes.doorbell.0, 4096)?, cells)?;
    w.end()
}
