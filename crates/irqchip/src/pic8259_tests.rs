//! The pair of 8259s as PC software drives it.

use super::port::{MASTER_COMMAND, MASTER_DATA, MASTER_ELCR, SLAVE_COMMAND, SLAVE_DATA, SLAVE_ELCR};
use super::*;
use proptest::prelude::*;

/// Initialized as kernels do: vectors 20h and 28h, nothing masked, `icw4` in both.
fn initialized(icw4: u8) -> Pic8259 {
    let mut pic = Pic8259::new();
    for (command, data, base, icw3) in
        [(MASTER_COMMAND, MASTER_DATA, 0x20, 0x04), (SLAVE_COMMAND, SLAVE_DATA, 0x28, 0x02)]
    {
        pic.write(command, 0x11);
        for value in [base, icw3, icw4, 0x00] {
            pic.write(data, value);
        }
    }
    pic
}

fn pic() -> Pic8259 {
    initialized(0x01)
}

fn pulse(pic: &mut Pic8259, irq: u8) {
    pic.set_line(irq, true);
    pic.set_line(irq, false);
}

fn in_service(pic: &mut Pic8259, command: u16) -> u8 {
    pic.write(command, 0x0b);
    pic.read(command)
}

#[test]
fn acknowledge_of_each_line_gives_its_vector() {
    for irq in (0..16).filter(|irq| *irq != 2) {
        let mut pic = pic();
        assert!(!pic.output());
        pulse(&mut pic, irq);
        assert!(pic.output());
        assert_eq!(pic.acknowledge(), 0x20 + irq);
        assert!(!pic.output());
        let expected = if irq < 8 { (1 << irq, 0) } else { (1 << 2, 1 << (irq - 8)) };
        assert_eq!((in_service(&mut pic, MASTER_COMMAND), in_service(&mut pic, SLAVE_COMMAND)), expected);
    }
}

#[test]
fn lower_lines_have_priority_and_interrupt_higher_ones() {
    let mut pic = pic();
    pulse(&mut pic, 5);
    assert_eq!(pic.acknowledge(), 0x25);
    pulse(&mut pic, 6);
    assert!(!pic.output(), "lower priority waits");
    pulse(&mut pic, 1);
    assert_eq!(pic.acknowledge(), 0x21);
    pic.write(MASTER_COMMAND, 0x20);
    assert_eq!(in_service(&mut pic, MASTER_COMMAND), 1 << 5, "EOI ends the most urgent");
    pic.write(MASTER_COMMAND, 0x20);
    assert_eq!(pic.acknowledge(), 0x26);
}

#[test]
fn slave_lines_rank_between_one_and_three() {
    let mut pic = pic();
    for irq in [3, 14, 1] {
        pulse(&mut pic, irq);
    }
    for expected in [0x21, 0x2e, 0x23] {
        assert_eq!(pic.acknowledge(), expected);
        pic.write(SLAVE_COMMAND, 0x20);
        pic.write(MASTER_COMMAND, 0x20);
    }
    assert!(!pic.output());
}

#[test]
fn specific_eoi_ends_the_line_it_names() {
    let mut pic = pic();
    pulse(&mut pic, 5);
    pic.acknowledge();
    pulse(&mut pic, 3);
    pic.acknowledge();
    pic.write(MASTER_COMMAND, 0x65);
    assert_eq!(in_service(&mut pic, MASTER_COMMAND), 1 << 3);
}

#[test]
fn masked_line_waits_until_unmasked() {
    let mut pic = pic();
    pic.write(MASTER_DATA, 1 << 4);
    pulse(&mut pic, 4);
    assert!(!pic.output());
    assert_eq!(pic.read(MASTER_COMMAND), 1 << 4, "IRR shows it");
    pic.write(MASTER_DATA, 0);
    assert!(pic.output());
    assert_eq!(pic.read(MASTER_DATA), 0);
}

#[test]
fn edge_line_held_high_interrupts_once() {
    let mut pic = pic();
    pic.set_line(4, true);
    pic.acknowledge();
    pic.write(MASTER_COMMAND, 0x20);
    assert!(!pic.output());
    pic.set_line(4, false);
    pic.set_line(4, true);
    assert!(pic.output());
}

#[test]
fn level_line_interrupts_as_long_as_it_is_high() {
    let mut pic = pic();
    pic.write(SLAVE_ELCR, 0xff);
    assert_eq!(pic.read(SLAVE_ELCR), 0xde);
    pic.write(MASTER_ELCR, 0xff);
    assert_eq!(pic.read(MASTER_ELCR), 0xf8);
    pic.set_line(10, true);
    for _ in 0..2 {
        assert_eq!(pic.acknowledge(), 0x2a);
        pic.write(SLAVE_COMMAND, 0x20);
        pic.write(MASTER_COMMAND, 0x20);
        assert!(pic.output());
    }
    pic.set_line(10, false);
    assert!(!pic.output());
}

#[test]
fn line_already_high_interrupts_when_it_becomes_level_triggered() {
    let mut pic = Pic8259::new();
    pic.set_line(10, true);
    pic.reset();
    assert!(!pic.output());
    pic.write(SLAVE_ELCR, 0x04);
    assert!(pic.output());
    pic.set_line(10, false);
    assert!(!pic.output());
}

#[test]
fn acknowledge_with_nothing_left_is_spurious_line_7_and_not_in_service() {
    let mut pic = pic();
    pic.write(MASTER_ELCR, 0x20);
    pic.set_line(5, true);
    assert!(pic.output());
    pic.set_line(5, false);
    assert_eq!(pic.acknowledge(), 0x27);
    assert_eq!(in_service(&mut pic, MASTER_COMMAND), 0);
}

#[test]
fn auto_eoi_leaves_nothing_in_service() {
    let mut pic = initialized(0x03);
    pulse(&mut pic, 5);
    pic.acknowledge();
    assert_eq!(in_service(&mut pic, MASTER_COMMAND), 0);
    pulse(&mut pic, 6);
    assert!(pic.output());
}

#[test]
fn rotation_on_eoi_gives_the_served_line_the_lowest_priority() {
    let mut pic = pic();
    pulse(&mut pic, 4);
    pic.acknowledge();
    pic.write(MASTER_COMMAND, 0xa0);
    pulse(&mut pic, 4);
    pulse(&mut pic, 7);
    assert_eq!(pic.acknowledge(), 0x27, "7 now ranks above 4");
}

#[test]
fn rotation_on_auto_eoi_goes_round() {
    let mut pic = initialized(0x03);
    pic.write(MASTER_COMMAND, 0x80);
    for expected in [0x23, 0x24, 0x23] {
        pulse(&mut pic, 3);
        pulse(&mut pic, 4);
        assert_eq!(pic.acknowledge(), expected);
    }
}

#[test]
fn set_priority_command_makes_the_named_line_lowest() {
    let mut pic = pic();
    pic.write(MASTER_COMMAND, 0xc3);
    for irq in [0, 3, 4] {
        pulse(&mut pic, irq);
    }
    for expected in [0x24, 0x20, 0x23] {
        assert_eq!(pic.acknowledge(), expected);
        pic.write(MASTER_COMMAND, 0x20);
    }
}

#[test]
fn special_mask_mode_lets_lower_lines_through_a_masked_service() {
    let mut pic = pic();
    pulse(&mut pic, 3);
    pic.acknowledge();
    pulse(&mut pic, 5);
    assert!(!pic.output());
    pic.write(MASTER_DATA, 1 << 3);
    pic.write(MASTER_COMMAND, 0x68);
    assert_eq!(pic.acknowledge(), 0x25);
    pic.write(MASTER_COMMAND, 0x20);
    assert_eq!(in_service(&mut pic, MASTER_COMMAND), 1 << 3, "EOI passes over the masked one");
    pic.write(MASTER_COMMAND, 0x48);
    pulse(&mut pic, 5);
    assert!(!pic.output(), "and off again");
}

#[test]
fn special_fully_nested_master_lets_the_slave_interrupt_itself() {
    for (icw4, nests) in [(0x01, false), (0x11, true)] {
        let mut pic = initialized(icw4);
        pulse(&mut pic, 12);
        pic.acknowledge();
        pulse(&mut pic, 8);
        assert_eq!(pic.output(), nests);
    }
}

#[test]
fn poll_acknowledges_and_reads_once() {
    let mut pic = pic();
    pic.write(MASTER_COMMAND, 0x0c);
    assert_eq!(pic.read(MASTER_COMMAND), 0, "nothing to poll");
    pulse(&mut pic, 5);
    pic.write(MASTER_COMMAND, 0x0c);
    assert_eq!(pic.read(MASTER_COMMAND), 0x85);
    assert!(!pic.output());
    assert_eq!(in_service(&mut pic, MASTER_COMMAND), 1 << 5);
    pic.write(MASTER_COMMAND, 0x0a);
    assert_eq!(pic.read(MASTER_COMMAND), 0, "IRR");
}

#[test]
fn initialization_clears_masks_service_and_held_edges() {
    let mut pic = pic();
    pic.set_line(4, true);
    pulse(&mut pic, 5);
    pic.acknowledge();
    pic.write(MASTER_DATA, 0xff);
    pic.write(MASTER_COMMAND, 0x11);
    assert_eq!(pic.read(MASTER_COMMAND), 0, "IRR");
    for value in [0x40, 0x04, 0x01] {
        pic.write(MASTER_DATA, value);
    }
    assert_eq!((pic.read(MASTER_DATA), in_service(&mut pic, MASTER_COMMAND)), (0, 0));
    pulse(&mut pic, 6);
    assert_eq!(pic.acknowledge(), 0x46);
}

#[test]
fn initialization_of_a_single_chip_without_icw4_takes_one_word() {
    let mut pic = pic();
    pic.write(MASTER_COMMAND, 0x12);
    pic.write(MASTER_DATA, 0x50);
    pic.write(MASTER_DATA, 0xfe);
    assert_eq!(pic.read(MASTER_DATA), 0xfe);
    pulse(&mut pic, 0);
    assert_eq!(pic.acknowledge(), 0x50);
}

#[test]
fn lines_beyond_the_pair_and_the_cascade_are_ignored() {
    let mut pic = pic();
    for irq in [2, 16, 255] {
        pic.set_line(irq, true);
    }
    assert_eq!(pic, self::pic());
}

proptest! {
    /// A guest writes anything, lines do anything: acknowledge always gives a vector of the pair, and output means that
    /// one is there.
    #[test]
    fn any_accesses_leave_vectors_within_the_bases(steps in prop::collection::vec((0u8..4, any::<u8>(), any::<u8>()), 0..200)) {
        const PORTS: [u16; 6] = [MASTER_COMMAND, MASTER_DATA, SLAVE_COMMAND, SLAVE_DATA, MASTER_ELCR, SLAVE_ELCR];
        let mut pic = pic();
        for (step, place, value) in steps {
            let port = PORTS[usize::from(place) % PORTS.len()];
            match step {
                0 => pic.set_line(place & 31, value & 1 != 0),
                1 => pic.write(port, value),
                2 => {
                    pic.read(port);
                }
                _ => {
                    let vector = pic.acknowledge();
                    let bases = [pic.master.vector_base, pic.slave.vector_base];
                    prop_assert!(bases.contains(&(vector & 0xf8)));
                }
            }
        }
    }
}
