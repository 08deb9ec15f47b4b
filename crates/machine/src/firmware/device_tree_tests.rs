//! The tree as a kernel reads it: a small reader of our own, and what has to be in it.

use super::*;
use std::collections::BTreeMap;

fn board() -> Board {
    Board { arch: Arch::Aarch64, vcpus: 2, gic: GicVersion::V2, ram_bytes: 512 << 20, virtio_devices: 3 }
}

/// Properties by their path.
struct Tree(BTreeMap<String, Vec<u8>>);

impl Tree {
    /// Reads a flattened tree (Devicetree Specification 0.4, chapter 5).
    fn read(blob: &[u8]) -> Self {
        let word = |at: usize| u32::from_be_bytes(blob[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!((word(0), word(4)), (0xd00d_feed, blob.len()));
        let (mut at, strings) = (word(8), word(12));
        let text = |at: usize| {
            let end = at + blob[at..].iter().position(|&b| b == 0).unwrap();
            String::from_utf8(blob[at..end].to_vec()).unwrap()
        };
        let (mut path, mut all) = (Vec::<String>::new(), BTreeMap::new());
        loop {
            let token = word(at);
            at += 4;
            match token {
                1 => {
                    let name = text(at);
                    at = (at + name.len() + 1).next_multiple_of(4);
                    path.push(name);
                }
                2 => {
                    path.pop();
                }
                3 => {
                    let (len, name) = (word(at), text(strings + word(at + 4)));
                    let value = blob[at + 8..at + 8 + len].to_vec();
                    assert!(all.insert(format!("{}/{name}", path.join("/")), value).is_none());
                    at = (at + 8 + len).next_multiple_of(4);
                }
                9 => break,
                other => panic!("token {other}"),
            }
        }
        assert!(path.is_empty());
        Self(all)
    }
    fn of(board: &Board, chosen: &Chosen<'_>) -> Self {
        Self::read(&build(board, chosen).unwrap())
    }
    fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }
    fn cells(&self, path: &str) -> Vec<u32> {
        let value = self.0.get(path).unwrap_or_else(|| panic!("no {path}"));
        value.chunks(4).map(|c| u32::from_be_bytes(c.try_into().unwrap())).collect()
    }
    fn text(&self, path: &str) -> String {
        let value = self.0.get(path).unwrap_or_else(|| panic!("no {path}"));
        String::from_utf8(value.strip_suffix(b"\0").unwrap().to_vec()).unwrap()
    }
}

#[test]
fn chosen_says_what_the_boot_is() {
    let chosen = Chosen { command_line: "console=ttyAMA0 quiet", initrd: Some(0x4800_0000..0x4800_1234) };
    let t = Tree::of(&board(), &chosen);
    assert_eq!(t.text("/chosen/bootargs"), chosen.command_line);
    assert_eq!(t.text("/chosen/stdout-path"), "/pl011@9000000");
    assert_eq!(t.cells("/chosen/linux,initrd-start"), [0, 0x4800_0000]);
    assert_eq!(t.cells("/chosen/linux,initrd-end"), [0, 0x4800_1234]);
    assert_eq!((t.0["/chosen/kaslr-seed"].len(), t.0["/chosen/rng-seed"].len()), (8, 64));
    let again = Tree::of(&board(), &Chosen::default());
    assert!(!again.has("/chosen/linux,initrd-start"));
    assert_ne!(t.0["/chosen/rng-seed"], again.0["/chosen/rng-seed"], "anew at each boot");
}

#[test]
fn memory_and_processors_are_the_boards() {
    let t = Tree::of(&Board { ram_bytes: 5 << 30, vcpus: 4, ..board() }, &Chosen::default());
    assert_eq!(t.cells("/memory@40000000/reg"), [0, 0x4000_0000, 1, 0x4000_0000]);
    for id in 0..4 {
        assert_eq!(t.cells(&format!("/cpus/cpu@{id}/reg")), [id]);
        assert_eq!(t.text(&format!("/cpus/cpu@{id}/enable-method")), "psci");
    }
    assert!(!t.has("/cpus/cpu@4/reg"));
    assert_eq!(
        (t.text("/psci/method"), t.text("/psci/compatible")),
        ("hvc".into(), "arm,psci-1.0\0arm,psci-0.2".into())
    );
}

#[test]
fn interrupt_controller_is_of_its_version() {
    let node = "/interrupt-controller@8000000";
    let t = Tree::of(&board(), &Chosen::default());
    assert_eq!(t.text(&format!("{node}/compatible")), "arm,cortex-a15-gic");
    assert_eq!(t.cells(&format!("{node}/reg")), [0, 0x800_0000, 0, 0x1_0000, 0, 0x801_0000, 0, 0x1_0000]);
    assert_eq!(t.cells("/timer/interrupts")[6..9], [1, 11, 0x304], "the virtual timer, of two processors");
    let t = Tree::of(&Board { gic: GicVersion::V3, ..board() }, &Chosen::default());
    assert_eq!(t.text(&format!("{node}/compatible")), "arm,gic-v3");
    assert_eq!(t.cells(&format!("{node}/reg")), [0, 0x800_0000, 0, 0x1_0000, 0, 0x80a_0000, 0, 0x4_0000]);
    assert_eq!(t.cells("/timer/interrupts")[6..9], [1, 11, 4]);
    let handle = t.cells(&format!("{node}/phandle"));
    assert_eq!(t.cells("/interrupt-parent"), handle);
}

#[test]
fn devices_are_where_the_board_has_them() {
    let t = Tree::of(&board(), &Chosen::default());
    assert_eq!(t.cells("/pl011@9000000/interrupts"), [0, 1, 4]);
    assert_eq!(t.cells("/pl031@9010000/interrupts"), [0, 2, 4]);
    assert_eq!(t.cells("/gpio-keys/poweroff/gpios")[0], t.cells("/pl061@9030000/phandle")[0]);
    assert_eq!(t.cells("/pl011@9000000/clocks"), [t.cells("/apb-pclk/phandle")[0]; 2]);
    assert_eq!(t.cells("/virtio_mmio@a000400/interrupts"), [0, 18, 4]);
    assert_eq!(t.cells("/virtio_mmio@a000400/reg"), [0, 0xa00_0400, 0, 0x200]);
    assert!(!t.has("/virtio_mmio@a000600/reg"));
}

#[test]
fn tree_of_32_bit_processors_says_so() {
    let t = Tree::of(&Board { arch: Arch::Armv7, ..board() }, &Chosen::default());
    assert_eq!(t.text("/cpus/cpu@0/compatible"), "arm,cortex-a15");
    assert_eq!(t.text("/timer/compatible"), "arm,armv7-timer");
}

#[test]
fn command_line_that_no_property_holds_is_an_error() {
    let e = build(&board(), &Chosen { command_line: "a\0b", initrd: None }).unwrap_err();
    assert!(e.to_string().contains("device tree"), "{e}");
}
