//! Attacks on descriptor chains.

use super::queue_tests::{Driver, NEXT, SIZE, WRITE};
use super::{Error, Options, Segment};
use address::GuestPhys;

const INDIRECT: u16 = 4;

fn segment(address: u64, len: u32) -> Segment {
    Segment { address: GuestPhys(address), len }
}

fn indirect() -> Options {
    Options { indirect: true, ..Options::default() }
}

#[test]
fn pop_gives_readable_and_writable_segments_in_order() {
    let d = Driver::new();
    d.descriptor(3, 0x4000, 16, NEXT, 1);
    d.descriptor(1, 0x4100, 32, NEXT, 0);
    d.descriptor(0, 0x4200, 64, NEXT | WRITE, 2);
    d.descriptor(2, 0x4300, 1, WRITE, 0);
    d.offer(3);
    let mut q = d.queue(Options::default());
    let chain = q.pop().unwrap().unwrap();
    assert_eq!(chain.head(), 3);
    assert_eq!(chain.readable(), [segment(0x4000, 16), segment(0x4100, 32)]);
    assert_eq!(chain.writable(), [segment(0x4200, 64), segment(0x4300, 1)]);
    assert!(q.pop().unwrap().is_none());
}

#[test]
fn cursors_cross_segments_and_stop_at_the_end() {
    let d = Driver::new();
    d.memory.write(GuestPhys(0x4000), b"abc").unwrap();
    d.memory.write(GuestPhys(0x5000), b"defgh").unwrap();
    d.descriptor(0, 0x4000, 3, NEXT, 1);
    d.descriptor(1, 0x5000, 5, NEXT, 2);
    d.descriptor(2, 0x6000, 2, NEXT | WRITE, 3);
    d.descriptor(3, 0x7000, 2, WRITE, 0);
    d.offer(0);
    let chain = d.queue(Options::default()).pop().unwrap().unwrap();
    let mut r = chain.reader();
    let mut four = [0; 4];
    r.read_exact(&mut four).unwrap();
    assert_eq!((&four, r.remaining()), (b"abcd", 4));
    assert!(matches!(r.read_exact(&mut [0; 5]), Err(Error::Short { wanted: 5, left: 4 })));
    let mut rest = [0; 9];
    assert_eq!(r.read(&mut rest).unwrap(), 4);
    assert_eq!(&rest[..4], b"efgh");
    let mut w = chain.writer();
    assert_eq!(w.skip(1).unwrap(), 1);
    assert_eq!(w.write(b"xyz!").unwrap(), 3);
    assert_eq!((w.written(), w.remaining()), (4, 0));
    assert_eq!(d.memory.read_u16(GuestPhys(0x6000)).unwrap(), u16::from_le_bytes([0, b'x']));
    assert_eq!(d.memory.read_u16(GuestPhys(0x7000)).unwrap(), u16::from_le_bytes(*b"yz"));
    assert_eq!(d.memory.read_u8(GuestPhys(0x7002)).unwrap(), 0, "not past the descriptor");
}

#[test]
fn chain_that_loops_is_refused_and_breaks_the_queue() {
    let d = Driver::new();
    d.descriptor(0, 0x4000, 1, NEXT, 1);
    d.descriptor(1, 0x4000, 1, NEXT, 0);
    d.offer(0);
    let mut q = d.queue(Options::default());
    assert!(matches!(q.pop(), Err(Error::Loop(n)) if n == SIZE.into()));
    assert!(matches!(q.pop(), Err(Error::Broken)));
    assert!(q.is_broken());
}

#[test]
fn chain_as_long_as_the_table_is_taken() {
    let d = Driver::new();
    for i in 0..SIZE {
        d.descriptor(i, 0x4000, 1, if i + 1 < SIZE { NEXT } else { 0 }, i + 1);
    }
    d.offer(0);
    assert_eq!(d.queue(Options::default()).pop().unwrap().unwrap().readable().len(), SIZE.into());
}

#[test]
fn descriptor_index_out_of_the_table_is_refused() {
    for head in [SIZE, 0xffff] {
        let d = Driver::new();
        d.offer(head);
        assert!(matches!(d.queue(Options::default()).pop(), Err(Error::DescriptorIndex { .. })));
    }
    let d = Driver::new();
    d.descriptor(0, 0x4000, 1, NEXT, SIZE);
    d.offer(0);
    assert!(matches!(d.queue(Options::default()).pop(), Err(Error::DescriptorIndex { .. })));
}

#[test]
fn descriptor_outside_memory_is_refused() {
    for (address, len) in [
        (d_end(), 1),
        (d_end() - 4, 5),
        (0x10_0000_0000, 16),
        (u64::MAX, 1),
        (u64::MAX - 3, 0xffff_ffff),
        (0x4000, 0xffff_ffff),
        (0x2_f000, 0x1001),
    ] {
        for flags in [0, WRITE] {
            let d = Driver::new();
            d.descriptor(0, address, len, flags, 0);
            d.offer(0);
            let result = d.queue(Options::default()).pop();
            assert!(matches!(result, Err(Error::OutsideMemory { .. })), "{address:#x} {len}: {result:?}");
        }
    }
}

/// First address past the driver's RAM.
fn d_end() -> u64 {
    super::queue_tests::RAM
}

#[test]
fn rom_may_be_read_but_not_written() {
    let rom = super::queue_tests::ROM;
    let d = Driver::new();
    d.descriptor(0, rom, 16, 0, 0);
    d.offer(0);
    assert!(d.queue(Options::default()).pop().is_ok());
    d.descriptor(0, rom, 16, WRITE, 0);
    assert!(matches!(d.queue(Options::default()).pop(), Err(Error::OutsideMemory { .. })));
}

#[test]
fn empty_descriptor_is_refused() {
    let d = Driver::new();
    d.descriptor(0, 0x4000, 0, 0, 0);
    d.offer(0);
    assert!(matches!(d.queue(Options::default()).pop(), Err(Error::EmptyDescriptor)));
}

#[test]
fn readable_after_writable_is_refused() {
    let d = Driver::new();
    d.descriptor(0, 0x4000, 4, NEXT | WRITE, 1);
    d.descriptor(1, 0x4000, 4, 0, 0);
    d.offer(0);
    assert!(matches!(d.queue(Options::default()).pop(), Err(Error::Order)));
}

#[test]
fn chain_of_more_bytes_than_allowed_is_refused() {
    let d = Driver::new();
    for i in 0..4 {
        d.descriptor(i, 0x4000, 0x1000, if i < 3 { NEXT } else { 0 }, i + 1);
    }
    d.offer(0);
    let options = |max_bytes| Options { max_bytes, ..Options::default() };
    assert!(matches!(d.queue(options(0x3fff)).pop(), Err(Error::TooLong(0x3fff))));
    assert!(d.queue(options(0x4000)).pop().is_ok());
}

#[test]
fn indirect_table_after_direct_descriptors_is_followed() {
    let d = Driver::new();
    d.descriptor(0, 0x4000, 1, NEXT, 1);
    d.descriptor(1, 0x8000, 48, INDIRECT, 0);
    d.indirect(0x8000, 0, 0x4100, 2, NEXT, 2);
    d.indirect(0x8000, 2, 0x4200, 3, WRITE, 0);
    d.offer(0);
    let chain = d.queue(indirect()).pop().unwrap().unwrap();
    assert_eq!(chain.readable(), [segment(0x4000, 1), segment(0x4100, 2)]);
    assert_eq!(chain.writable(), [segment(0x4200, 3)]);
}

#[test]
fn indirect_not_negotiated_is_refused() {
    let d = Driver::new();
    d.descriptor(0, 0x8000, 16, INDIRECT, 0);
    d.indirect(0x8000, 0, 0x4000, 1, 0, 0);
    d.offer(0);
    assert!(matches!(d.queue(Options::default()).pop(), Err(Error::Indirect(_))));
}

#[test]
fn indirect_in_indirect_or_with_next_is_refused() {
    let d = Driver::new();
    d.descriptor(0, 0x8000, 16, INDIRECT, 0);
    d.indirect(0x8000, 0, 0x8000, 16, INDIRECT, 0);
    d.offer(0);
    assert!(matches!(d.queue(indirect()).pop(), Err(Error::Indirect("inside an indirect table"))));
    d.indirect(0x8000, 0, 0x4000, 1, 0, 0);
    d.descriptor(0, 0x8000, 16, INDIRECT | NEXT, 1);
    assert!(matches!(d.queue(indirect()).pop(), Err(Error::Indirect("with a next descriptor"))));
}

#[test]
fn indirect_table_of_bad_length_or_place_is_refused() {
    for (address, len) in
        [(0x8000, 0), (0x8000, 15), (0x8000, 17), (0x8000, 1025 * 16), (0x8000, 0xffff_fff0)]
    {
        let d = Driver::new();
        d.descriptor(0, address, len, INDIRECT, 0);
        d.offer(0);
        assert!(matches!(d.queue(indirect()).pop(), Err(Error::IndirectLength(l)) if l == len));
    }
    for address in [d_end(), u64::MAX - 7, 0x20_0000_0000] {
        let d = Driver::new();
        d.descriptor(0, address, 32, INDIRECT, 0);
        d.offer(0);
        assert!(d.queue(indirect()).pop().is_err(), "{address:#x}");
    }
}

#[test]
fn indirect_table_that_loops_or_leaves_itself_is_refused() {
    let d = Driver::new();
    d.descriptor(0, 0x8000, 32, INDIRECT, 0);
    d.indirect(0x8000, 0, 0x4000, 1, NEXT, 1);
    d.indirect(0x8000, 1, 0x4000, 1, NEXT, 0);
    d.offer(0);
    assert!(matches!(d.queue(indirect()).pop(), Err(Error::Loop(2))));
    d.indirect(0x8000, 0, 0x4000, 1, NEXT, 2);
    assert!(matches!(d.queue(indirect()).pop(), Err(Error::DescriptorIndex { index: 2, table: 2 })));
}

#[test]
fn chain_taken_does_not_change_when_the_driver_rewrites_it() {
    let d = Driver::new();
    d.descriptor(0, 0x4000, 4, NEXT, 1);
    d.descriptor(1, 0x4100, 4, WRITE, 0);
    d.offer(0);
    let chain = d.queue(Options::default()).pop().unwrap().unwrap();
    d.descriptor(0, u64::MAX, u32::MAX, NEXT | WRITE, 0xffff);
    d.descriptor(1, u64::MAX, u32::MAX, NEXT, 0xffff);
    assert_eq!((chain.readable(), chain.writable()), (&[segment(0x4000, 4)][..], &[segment(0x4100, 4)][..]));
    chain.writer().write(b"safe").unwrap();
}
