//! Device trees: read, changed for the control domain, and broken.

use std::vec;
use std::vec::Vec;

use address::HostPhys;
use proptest::prelude::*;
use vm_fdt::FdtWriter;

use crate::control::{Placement, placement, stage2};
use crate::control_tree::{Changes, room, write};
use crate::fdt::{Fdt, MAX_DEPTH, strings};
use crate::image::{ALIGN, Image, ZIMAGE_ALIGN};
use crate::platform::{Platform, find_doorbell, find_uart};
use crate::pool::test_pool;
use crate::problem::Problem;
use crate::regions::Region;

const OWN: Region = Region { start: 0x4020_0000, end: 0x4140_0000 };
const RAMDISK: Region = Region { start: 0x4c00_0000, end: 0x4c00_1234 };

/// What is left out of, or different in, a board.
#[derive(Clone, Copy, Default)]
struct Board {
    gic: u32,
    cpus: u64,
    no_memory: bool,
    no_kernel: bool,
    hvc: bool,
    named_timer: bool,
    reserved: bool,
    /// Modules don't say what they are, and come in any order.
    grub: bool,
}

const GOOD: Board = Board {
    gic: 2,
    cpus: 2,
    no_memory: false,
    no_kernel: false,
    hvc: false,
    named_timer: false,
    reserved: false,
    grub: false,
};

/// A board like QEMU's virt, with its UART behind a bus that translates.
fn tree(board: Board) -> Vec<u8> {
    let mut f = FdtWriter::new().unwrap();
    let root = f.begin_node("").unwrap();
    f.property_u32("#address-cells", 2).unwrap();
    f.property_u32("#size-cells", 2).unwrap();
    if !board.no_memory {
        let memory = f.begin_node("memory@40000000").unwrap();
        f.property_string("device_type", "memory").unwrap();
        f.property_array_u64("reg", &[0x4000_0000, 0x4000_0000]).unwrap();
        f.end_node(memory).unwrap();
    }
    if board.reserved {
        let reserved = f.begin_node("reserved-memory").unwrap();
        f.property_u32("#address-cells", 1).unwrap();
        f.property_u32("#size-cells", 1).unwrap();
        f.property_null("ranges").unwrap();
        let firmware = f.begin_node("firmware@41400000").unwrap();
        f.property_array_u32("reg", &[0x4140_0000, 0x10_0000]).unwrap();
        f.end_node(firmware).unwrap();
        f.end_node(reserved).unwrap();
    }
    let cpus = f.begin_node("cpus").unwrap();
    f.property_u32("#address-cells", 1).unwrap();
    f.property_u32("#size-cells", 0).unwrap();
    for n in 0..board.cpus {
        let cpu = f.begin_node(&std::format!("cpu@{n}")).unwrap();
        f.property_string("device_type", "cpu").unwrap();
        f.property_u32("reg", n as u32).unwrap();
        f.end_node(cpu).unwrap();
    }
    f.end_node(cpus).unwrap();
    if board.gic != 0 {
        let gic = f.begin_node("intc@8000000").unwrap();
        f.property_string("compatible", if board.gic == 2 { "arm,cortex-a15-gic" } else { "arm,gic-v3" })
            .unwrap();
        f.property_null("interrupt-controller").unwrap();
        let frames: &[u64] = match board.gic {
            2 => &[0x800_0000, 0x1_0000, 0x801_0000, 0x1_0000, 0x803_0000, 0x1_0000, 0x804_0000, 0x1_0000],
            _ => &[0x800_0000, 0x1_0000, 0x80a_0000, 0xf6_0000],
        };
        f.property_array_u64("reg", frames).unwrap();
        f.end_node(gic).unwrap();
    }
    let psci = f.begin_node("psci").unwrap();
    f.property_string("compatible", "arm,psci-1.0").unwrap();
    f.property_string("method", if board.hvc { "hvc" } else { "smc" }).unwrap();
    f.end_node(psci).unwrap();
    let timer = f.begin_node("timer").unwrap();
    f.property_string("compatible", "arm,armv8-timer").unwrap();
    f.property_array_u32("interrupts", &[1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4]).unwrap();
    if board.named_timer {
        let names = ["virt", "phys", "hyp-phys", "hyp-virt"].map(Into::into).to_vec();
        f.property_string_list("interrupt-names", names).unwrap();
    }
    f.end_node(timer).unwrap();
    let soc = f.begin_node("soc").unwrap();
    f.property_u32("#address-cells", 1).unwrap();
    f.property_u32("#size-cells", 1).unwrap();
    f.property_array_u32("ranges", &[0x7000_0000, 0, 0xfe00_0000, 0x200_0000]).unwrap();
    let uart = f.begin_node("serial@71000000").unwrap();
    f.property_string("compatible", "arm,pl011").unwrap();
    f.property_array_u32("reg", &[0x7100_0000, 0x1000]).unwrap();
    f.end_node(uart).unwrap();
    f.end_node(soc).unwrap();
    let aliases = f.begin_node("aliases").unwrap();
    f.property_string("serial0", "/soc/serial@71000000").unwrap();
    f.end_node(aliases).unwrap();
    let chosen = f.begin_node("chosen").unwrap();
    f.property_string("stdout-path", "serial0:115200n8").unwrap();
    f.property_string("bootargs", "the loader's").unwrap();
    let compatible = |kind: &str| {
        let kinds = if board.grub { vec!["multiboot,module"] } else { vec!["multiboot,module", kind] };
        kinds.into_iter().map(Into::into).collect()
    };
    if !board.no_kernel {
        let kernel = f.begin_node("module@0x49000000").unwrap();
        f.property_string_list("compatible", compatible("multiboot,kernel")).unwrap();
        f.property_array_u64("reg", &[0x4900_0000, 0x100_0000]).unwrap();
        f.property_string("bootargs", "console=ttyAMA0").unwrap();
        f.end_node(kernel).unwrap();
    }
    let ramdisk = f.begin_node("module@0x4c000000").unwrap();
    f.property_string_list("compatible", compatible("multiboot,ramdisk")).unwrap();
    f.property_array_u64("reg", &[RAMDISK.start, RAMDISK.size()]).unwrap();
    f.end_node(ramdisk).unwrap();
    f.end_node(chosen).unwrap();
    f.end_node(root).unwrap();
    f.finish().unwrap()
}

fn changes() -> Changes<'static> {
    Changes { bootargs: "quiet", ramdisk: Some(RAMDISK), own: OWN, doorbell: HostPhys(0xf000_0000) }
}

fn changed(source: &[u8]) -> Vec<u8> {
    let source = Fdt::new(source).unwrap();
    let mut out = vec![0xaa; room(source, &changes())];
    let length = write(source, &changes(), &mut out).unwrap();
    out.truncate(length);
    out
}

#[test]
fn modules_of_grub_are_told_apart_by_the_command_line() {
    let bytes = tree(Board { grub: true, ..GOOD });
    let p = Platform::new(Fdt::new(&bytes).unwrap(), 1).unwrap();
    assert_eq!((p.kernel.start, p.bootargs, p.ramdisk), (0x4900_0000, "console=ttyAMA0", Some(RAMDISK)));
    let alone = tree(Board { grub: true, no_kernel: true, ..GOOD });
    assert_eq!(Platform::new(Fdt::new(&alone).unwrap(), 1).unwrap_err(), Problem::NoKernel);
}

#[test]
fn the_machine_is_read() {
    let bytes = tree(GOOD);
    let fdt = Fdt::new(&bytes).unwrap();
    assert_eq!(find_uart(fdt), Some(HostPhys(0xff00_0000)));
    let p = Platform::new(fdt, 1).unwrap();
    assert_eq!(p.memory[..], [Region { start: 0x4000_0000, end: 0x8000_0000 }]);
    assert_eq!((p.cpus[..].to_vec(), p.bootargs, p.ramdisk), (vec![1, 0], "console=ttyAMA0", Some(RAMDISK)));
    assert_eq!((p.gic.version, p.gic.virtualization.unwrap().1.start), (2, 0x804_0000));
    let p3 = tree(Board { gic: 3, ..GOOD });
    assert_eq!(Platform::new(Fdt::new(&p3).unwrap(), 0).unwrap().gic.virtualization, None);
    // The window of `soc` ends at 4 GiB.
    assert_eq!(find_doorbell(fdt, &p.memory), Some(HostPhys(0xfdff_0000)));
}

#[test]
fn what_is_missing_is_named() {
    let problem = |board: Board| Platform::new(Fdt::new(&tree(board)).unwrap(), 0).unwrap_err();
    assert_eq!(problem(Board { no_memory: true, ..GOOD }), Problem::NoMemory);
    assert_eq!(problem(Board { gic: 0, ..GOOD }), Problem::NoGic);
    assert_eq!(problem(Board { cpus: 17, ..GOOD }), Problem::TooManyCpus);
    assert_eq!(problem(Board { cpus: 0, ..GOOD }), Problem::NoCpus);
    assert_eq!(problem(Board { no_kernel: true, ..GOOD }), Problem::NoKernel);
    assert_eq!(problem(Board { hvc: true, ..GOOD }), Problem::NoPsci);
}

#[test]
fn the_control_domain_is_told_what_it_needs() {
    let bytes = changed(&tree(GOOD));
    let fdt = Fdt::new(&bytes).unwrap();
    let chosen = fdt.find("/chosen").unwrap();
    assert_eq!(chosen.text("bootargs"), Some("quiet"));
    assert_eq!(chosen.property("linux,initrd-end"), Some(&RAMDISK.end.to_be_bytes()[..]));
    assert!(fdt.nodes().all(|n| !n.is_compatible("multiboot,module")));
    let bootargs = |name: &str| name == "bootargs";
    let count =
        fdt.tokens().filter(|t| matches!(t, crate::fdt::Token::Property(n, ..) if bootargs(n))).count();
    assert_eq!(count, 1);
    assert_eq!(fdt.find("/timer").unwrap().property("interrupts").unwrap().len(), 24);
    let own = fdt.find("/reserved-memory/auberge-hypervisor").unwrap();
    assert_eq!((own.reg().next(), own.property("no-map")), (Some(OWN), Some(&[][..])));
    let hypervisor = fdt.find("/hypervisor").unwrap();
    assert!(hypervisor.is_compatible(hypercall::COMPATIBLE));
    assert_eq!(hypervisor.reg().next().unwrap().start, 0xf000_0000);
    assert_eq!(find_uart(fdt), Some(HostPhys(0xff00_0000)));
}

#[test]
fn reservations_and_named_timers_are_kept_in_their_form() {
    let bytes = changed(&tree(Board { reserved: true, named_timer: true, ..GOOD }));
    let fdt = Fdt::new(&bytes).unwrap();
    assert!(fdt.find("/reserved-memory/firmware").is_some());
    assert_eq!(fdt.find("/reserved-memory/auberge-hypervisor").unwrap().reg().next(), Some(OWN));
    let timer = fdt.find("/timer").unwrap();
    assert_eq!(timer.property("interrupts").unwrap()[7], 14);
    assert!(strings(timer.property("interrupt-names").unwrap()).eq(["phys"]));
}

#[test]
fn the_tree_has_no_more_than_its_room() {
    let bytes = tree(GOOD);
    let fdt = Fdt::new(&bytes).unwrap();
    let length = changed(&bytes).len();
    assert!(length <= room(fdt, &changes()));
    for short in 0..length {
        assert_eq!(write(fdt, &changes(), &mut vec![0; short]), None);
    }
}

#[test]
fn the_kernel_stays_where_it_is_or_goes_where_there_is_room() {
    let bytes = tree(Board { reserved: true, ..GOOD });
    let platform = Platform::new(Fdt::new(&bytes).unwrap(), 0).unwrap();
    let source = Region { start: 0x4800_0000, end: 0x4810_0000 };
    let place = |image| placement(&platform, OWN, source, image, 0x4000);
    let image = Image { align: ALIGN, text_offset: 0, size: 0x200_0000, file_offset: 0 };
    let kernel = Region { start: 0x4900_0000, end: 0x4b00_0000 };
    let tree = Region { start: 0x4000_0000, end: 0x4000_4000 };
    assert_eq!(place(image), Ok(Placement { kernel, file: kernel.address(), tree }));
    // Its bss would reach the ramdisk.
    let grown = place(Image { size: 0x400_0000, ..image }).unwrap();
    assert_eq!(grown.kernel, Region { start: 0x4160_0000, end: 0x4560_0000 });
    assert_eq!(place(Image { size: 1 << 30, ..image }), Err(Problem::TooLittleMemory("the kernel")));
    // A zImage may be anywhere in its 128 MiB, and goes behind where it unpacks itself to; its tree is not below it.
    let image =
        Image { align: ZIMAGE_ALIGN, text_offset: 0x20_0000, size: 0x200_0000, file_offset: 0x180_0000 };
    let kernel_there = Region { start: 0x4820_0000, end: 0x4a20_0000 };
    let stays = place(image).unwrap();
    assert_eq!((stays.kernel, stays.file), (kernel_there, platform.kernel.address()));
    assert!(stays.tree.start >= kernel_there.start);
    let large = Image { size: 0x400_0000, ..image };
    assert_eq!(place(large), Err(Problem::RamdiskBelowKernel(RAMDISK)));
    let mut alone = Platform::new(Fdt::new(&bytes).unwrap(), 0).unwrap();
    alone.reserved.extend(alone.ramdisk.take());
    let moved = placement(&alone, OWN, source, large, 0x4000).unwrap();
    assert_eq!((moved.kernel.start, moved.file), (0x5020_0000, HostPhys(0x51a0_0000)));
    let misplaced = placement(&platform, kernel, source, image, 1);
    assert_eq!(misplaced, Err(Problem::ModuleMisplaced(platform.kernel)));
}

#[test]
fn stage_2_is_everything_but_its_holes() {
    let pool = test_pool(OWN.start, 512);
    let table = stage2(&pool, 44, [OWN, Region { start: 0x803_0000, end: 0x804_0000 }].into_iter()).unwrap();
    for (address, mapped) in [
        (OWN.start, false),
        (OWN.end - 1, false),
        (OWN.end, true),
        (OWN.start - 1, true),
        (0x803_0000, false),
    ] {
        assert_eq!(table.lookup(&pool, address).map(|l| l.output.0), mapped.then_some(address));
    }
    assert_eq!(table.lookup(&pool, 0xfff_ffff_ffff).unwrap().size, 1 << 30);
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| {
        let mut f = FdtWriter::new().unwrap();
        let nodes: Vec<_> =
            (0..depth).map(|n| f.begin_node(if n == 0 { "" } else { "n" }).unwrap()).collect();
        nodes.into_iter().rev().for_each(|n| f.end_node(n).unwrap());
        f.finish().unwrap()
    };
    assert!(Fdt::new(&nested(MAX_DEPTH)).is_some());
    assert!(Fdt::new(&nested(MAX_DEPTH + 1)).is_none());
}

proptest! {
    /// A broken tree may be read wrongly, but nothing panics, and what is written is a tree.
    #[test]
    fn broken_trees_do_no_harm(
        changes_at in proptest::collection::vec((0usize..4096, any::<u8>()), 1..6),
        word in proptest::option::of((0usize..512, prop_oneof![Just(u32::MAX), Just(0), Just(1 << 31), 0u32..64])),
        cut in proptest::option::of(0usize..4096),
    ) {
        let mut bytes = tree(Board { reserved: true, ..GOOD });
        let length = bytes.len();
        changes_at.iter().for_each(|(at, value)| bytes[at % length] = *value);
        if let Some((at, value)) = word {
            let at = at * 4 % (length - 4);
            bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        bytes.truncate(cut.unwrap_or(length));
        if let Some(fdt) = Fdt::new(&bytes) {
            find_uart(fdt);
            find_doorbell(fdt, &[]);
            let _ = Platform::new(fdt, 0).map(|p| placement(&p, OWN, OWN, Image { align: ALIGN, text_offset: 0, size: 4096, file_offset: 0 }, 4096));
            let mut out = vec![0; room(fdt, &changes())];
            if let Some(n) = write(fdt, &changes(), &mut out) {
                prop_assert!(Fdt::new(&out[..n]).is_some());
            }
        }
    }
}
