//! The rings: indices, interrupts, notifications, layouts; and a driver for tests.

use super::{Error, Layout, Options, Queue};
use crate::{GuestMemory, Kind, RegionConfig};
use address::GuestPhys;
use std::sync::Arc;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
/// Descriptors in the tests' queue.
pub const SIZE: u16 = 8;
/// Bytes of RAM, from 0; ROM lies elsewhere.
pub const RAM: u64 = 0x3_0000;
pub const ROM: u64 = 0x10_0000;

const LAYOUT: Layout = Layout {
    size: SIZE,
    descriptors: GuestPhys(0x1000),
    available: GuestPhys(0x2000),
    used: GuestPhys(0x3000),
};

/// A driver's side of a queue.
pub struct Driver {
    pub memory: Arc<GuestMemory>,
}

impl Driver {
    pub fn new() -> Self {
        let ram = RegionConfig { base: GuestPhys(0), len: RAM, kind: Kind::Ram };
        let rom = RegionConfig { base: GuestPhys(ROM), len: 0x1000, kind: Kind::Rom };
        Self { memory: Arc::new(GuestMemory::new(&[ram, rom]).unwrap()) }
    }
    pub fn queue(&self, options: Options) -> Queue {
        Queue::new(self.memory.clone(), LAYOUT, options).unwrap()
    }
    pub fn indirect(&self, table: u64, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let at = GuestPhys(table + 16 * u64::from(index));
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&address.to_le_bytes());
        raw[8..12].copy_from_slice(&len.to_le_bytes());
        raw[12..14].copy_from_slice(&flags.to_le_bytes());
        raw[14..].copy_from_slice(&next.to_le_bytes());
        self.memory.write(at, &raw).unwrap();
    }
    pub fn descriptor(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        self.indirect(LAYOUT.descriptors.0, index, address, len, flags, next);
    }
    fn word(&self, ring: GuestPhys, offset: u64) -> u16 {
        self.memory.read_u16(ring.wrapping_add(offset)).unwrap()
    }
    fn set_available(&self, offset: u64, value: u16) {
        self.memory.write_u16(LAYOUT.available.wrapping_add(offset), value).unwrap();
    }
    /// Puts a chain into the available ring.
    pub fn offer(&self, head: u16) {
        let index = self.word(LAYOUT.available, 2);
        self.set_available(4 + 2 * u64::from(index % SIZE), head);
        self.set_available(2, index.wrapping_add(1));
    }
    fn used_index(&self) -> u16 {
        self.word(LAYOUT.used, 2)
    }
}

#[test]
fn indices_wrap_around_after_65536_chains() {
    let d = Driver::new();
    let mut q = d.queue(Options::default());
    d.descriptor(5, 0x4000, 1, WRITE, 0);
    for i in 0..70_000u32 {
        d.offer(5);
        let chain = q.pop().unwrap().unwrap();
        q.push_used(chain.head(), i).unwrap();
        assert_eq!(d.used_index(), (i + 1) as u16);
    }
    let slot = u64::from((70_000u32 - 1) as u16 % SIZE);
    assert_eq!(d.memory.read_u64(GuestPhys(0x3004 + 8 * slot)).unwrap(), 69_999 << 32 | 5);
    assert!(q.pop().unwrap().is_none());
}

#[test]
fn available_index_jump_breaks_the_queue() {
    for jump in [SIZE + 1, 0x8000, 0xffff] {
        let d = Driver::new();
        let mut q = d.queue(Options::default());
        d.set_available(2, jump);
        assert!(matches!(q.pop(), Err(Error::IndexJump { from: 0, .. })));
        d.set_available(2, 1);
        assert!(matches!(q.pop(), Err(Error::Broken)), "it stays broken");
        assert!(matches!(q.enable_notification(), Err(Error::Broken)));
    }
}

#[test]
fn more_chains_than_descriptors_in_flight_break_the_queue() {
    let d = Driver::new();
    let mut q = d.queue(Options::default());
    d.descriptor(0, 0x4000, 1, 0, 0);
    (0..SIZE).for_each(|_| d.offer(0));
    let chains: Vec<_> = (0..SIZE).map(|_| q.pop().unwrap().unwrap()).collect();
    q.push_used(chains[0].head(), 0).unwrap();
    d.offer(0);
    assert!(q.pop().unwrap().is_some(), "one was given back");
    d.offer(0);
    assert!(matches!(q.pop(), Err(Error::IndexJump { .. })));
}

#[test]
fn interrupt_follows_the_flag_without_event_index() {
    let d = Driver::new();
    let mut q = d.queue(Options::default());
    assert!(!q.needs_interrupt().unwrap(), "nothing was given back");
    q.push_used(0, 0).unwrap();
    assert!(q.needs_interrupt().unwrap());
    assert!(!q.needs_interrupt().unwrap(), "once for each");
    d.set_available(0, 1);
    q.push_used(0, 0).unwrap();
    assert!(!q.needs_interrupt().unwrap());
}

#[test]
fn interrupt_follows_used_event_across_the_wrap() {
    let d = Driver::new();
    let mut q = d.queue(Options { event_idx: true, ..Options::default() });
    let used_event = 4 + 2 * u64::from(SIZE);
    d.set_available(0, 1); // ignored with event index
    q.push_used(0, 0).unwrap();
    assert!(q.needs_interrupt().unwrap(), "the first is always told");
    d.set_available(used_event, 2);
    q.push_used(0, 0).unwrap();
    assert!(!q.needs_interrupt().unwrap(), "index 2 is reached, not passed");
    q.push_used(0, 0).unwrap();
    assert!(q.needs_interrupt().unwrap());
    d.set_available(used_event, 0xffff);
    for _ in 3..0xffff {
        q.push_used(0, 0).unwrap();
        assert!(!q.needs_interrupt().unwrap());
    }
    q.push_used(0, 0).unwrap();
    assert!(q.needs_interrupt().unwrap());
}

#[test]
fn enable_notification_tells_of_chains_that_came_meanwhile() {
    for event_idx in [false, true] {
        let d = Driver::new();
        let mut q = d.queue(Options { event_idx, ..Options::default() });
        d.descriptor(0, 0x4000, 1, 0, 0);
        q.disable_notification().unwrap();
        assert_eq!(d.word(LAYOUT.used, 0), u16::from(!event_idx));
        assert!(!q.enable_notification().unwrap());
        d.offer(0);
        assert!(q.enable_notification().unwrap());
        q.pop().unwrap().unwrap();
        assert!(!q.enable_notification().unwrap());
        assert_eq!(d.word(LAYOUT.used, 0), 0);
        let available_event = d.word(LAYOUT.used, 4 + 8 * u64::from(SIZE));
        assert_eq!(available_event, u16::from(event_idx));
    }
}

#[test]
fn legacy_layout_puts_the_used_ring_on_its_own_page() {
    let l = Layout::legacy(5, 256);
    assert_eq!(
        (l.descriptors, l.available, l.used),
        (GuestPhys(0x5000), GuestPhys(0x6000), GuestPhys(0x7000))
    );
    assert_eq!(Layout::legacy(u32::MAX, 8).descriptors, GuestPhys(0xffff_ffff << 12));
}

#[test]
fn layouts_outside_memory_misaligned_or_of_odd_size_are_refused() {
    let d = Driver::new();
    let try_new = |l: Layout| Queue::new(d.memory.clone(), l, Options::default()).err();
    for size in [0, 3, 32769, 65535] {
        assert!(matches!(try_new(Layout { size, ..LAYOUT }), Some(Error::BadSize(_))), "{size}");
    }
    for l in [
        Layout { descriptors: GuestPhys(0x1008), ..LAYOUT },
        Layout { available: GuestPhys(0x2001), ..LAYOUT },
        Layout { used: GuestPhys(0x3002), ..LAYOUT },
    ] {
        assert!(matches!(try_new(l), Some(Error::Misaligned { .. })));
    }
    for l in [
        Layout { descriptors: GuestPhys(RAM), ..LAYOUT },
        Layout { descriptors: GuestPhys(RAM - 0x70), ..LAYOUT },
        Layout { available: GuestPhys(ROM), ..LAYOUT },
        Layout { used: GuestPhys(u64::MAX - 3), ..LAYOUT },
        Layout::legacy(u32::MAX, 8),
    ] {
        assert!(matches!(try_new(l), Some(Error::RingOutsideMemory { .. })), "{l:?}");
    }
}

/// Random bytes as rings: whatever they say, each pop ends, and no more than the queue holds is taken.
#[test]
fn random_rings_never_hang_or_panic() {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let d = Driver::new();
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..20_000 {
        for i in 0..SIZE {
            let address = (random() % 0x4_0000) & !(random() & 0xff);
            d.descriptor(
                i,
                address,
                random() as u32 % 0x200,
                random() as u16 % 8,
                random() as u16 % (SIZE + 1),
            );
            d.set_available(4 + 2 * u64::from(i), random() as u16 % (SIZE + 1));
        }
        d.set_available(2, random() as u16 % (SIZE + 2));
        let mut q = d.queue(Options { indirect: true, event_idx: true, max_bytes: 0x800 });
        for _ in 0..=SIZE {
            match q.pop() {
                Ok(Some(chain)) => {
                    chain.reader().read(&mut [0; 0x100]).unwrap();
                    q.push_used(chain.head(), 0).unwrap();
                    taken += 1;
                }
                Ok(None) => break,
                Err(_) => {
                    refused += 1;
                    break;
                }
            }
        }
        assert!(matches!(q.pop(), Ok(None) | Err(Error::Broken)));
    }
    assert!(taken > 1000 && refused > 1000, "{taken} taken, {refused} refused");
}

/// A driver that rewrites its rings all the time: every chain taken lies in memory, and the device never stops.
#[test]
fn rings_rewritten_while_they_are_read_give_only_valid_chains() {
    let d = Arc::new(Driver::new());
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (d, stop) = (d.clone(), stop.clone());
        move || {
            let mut i = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                i += 1;
                let bad = i.is_multiple_of(3);
                let (address, len) = if bad { (u64::MAX - i, u32::MAX) } else { (0x4000, 64) };
                d.descriptor((i % 4) as u16, address, len, (i >> 2) as u16 & 3, (i >> 4) as u16 % 5);
                d.set_available(2, (i >> 3) as u16 % 4);
            }
        }
    });
    let mut taken = 0;
    let start = std::time::Instant::now();
    while taken < 20_000 && start.elapsed().as_secs() < 20 {
        let mut q = d.queue(Options::default());
        while let Ok(Some(chain)) = q.pop() {
            chain.reader().read(&mut [0; 512]).unwrap();
            chain.writer().write(&[0; 512]).unwrap();
            q.push_used(chain.head(), 0).unwrap();
            taken += 1;
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
    assert!(taken > 0);
}
