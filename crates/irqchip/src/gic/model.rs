//! The distributor against a model that is too simple to be wrong: one record an interrupt, no list registers, no words.
//!
//! vCPUs run one after another with list registers of a simulated CPU interface, which takes what is best and ends it, in order.

use super::*;
use proptest::prelude::*;
use std::vec::Vec;

const D: Frame = Frame::Distributor;
const VCPUS: usize = 2;
/// What the operations are about: two SGIs (sent by the other vCPU), two PPIs, four SPIs.
const INTIDS: [usize; 8] = [1, 2, 20, 27, 33, 48, 79, 127];

#[derive(Clone, Copy, Default)]
struct Irq {
    enabled: bool,
    latch: bool,
    line: bool,
    active: bool,
    edge: bool,
    priority: u8,
    target: usize,
}

impl Irq {
    fn pending(&self) -> bool {
        self.latch || self.line && !self.edge
    }
}

/// Of each vCPU all interrupts; SPIs are in the first's.
struct Model {
    irqs: [[Irq; 128]; VCPUS],
    /// Acknowledged and not ended, by vCPU: the last is what runs.
    running: [Vec<usize>; VCPUS],
}

impl Model {
    fn irq(&mut self, vcpu: usize, n: usize) -> &mut Irq {
        &mut self.irqs[if n < 32 { vcpu } else { 0 }][n]
    }

    fn get(&self, vcpu: usize, n: usize) -> Irq {
        self.irqs[if n < 32 { vcpu } else { 0 }][n]
    }

    /// Below this priority's value something has to be to be taken.
    fn limit(&self, vcpu: usize) -> u16 {
        self.running[vcpu].last().map_or(0x100, |n| self.get(vcpu, *n).priority as u16)
    }

    /// What a vCPU takes now, if `limit` is what it is at.
    fn next(&self, vcpu: usize, limit: u16) -> Option<usize> {
        let takes = |n: &usize| {
            let irq = self.get(vcpu, *n);
            let ours = *n < 32 || irq.target == vcpu;
            ours && irq.enabled && irq.pending() && !irq.active && (irq.priority as u16) < limit
        };
        INTIDS.into_iter().filter(takes).min_by_key(|n| (self.get(vcpu, *n).priority, *n))
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Line(usize, usize, bool),
    Enable(usize, usize, bool),
    SetPending(usize, usize),
    ClearPending(usize, usize),
    Edge(usize, usize, bool),
    Priority(usize, usize, u8),
    Target(usize, usize),
    /// Enters the vCPU with so many list registers, which acknowledges (true) or ends (false) what it can.
    Run(usize, usize, [bool; 3]),
}

fn op() -> impl Strategy<Value = Op> {
    let vcpu = 0..VCPUS;
    let n = || prop::sample::select(&INTIDS[..]);
    prop_oneof![
        3 => (vcpu.clone(), n(), any::<bool>()).prop_map(|(v, n, l)| Op::Line(v, n, l)),
        1 => (vcpu.clone(), n(), any::<bool>()).prop_map(|(v, n, e)| Op::Enable(v, n, e)),
        1 => (vcpu.clone(), n()).prop_map(|(v, n)| Op::SetPending(v, n)),
        1 => (vcpu.clone(), n()).prop_map(|(v, n)| Op::ClearPending(v, n)),
        1 => (vcpu.clone(), n(), any::<bool>()).prop_map(|(v, n, e)| Op::Edge(v, n, e)),
        1 => (vcpu.clone(), n(), any::<u8>()).prop_map(|(v, n, p)| Op::Priority(v, n, p)),
        1 => (n(), vcpu.clone()).prop_map(|(n, v)| Op::Target(n, v)),
        4 => (vcpu, 2usize..5, any::<[bool; 3]>()).prop_map(|(v, n, steps)| Op::Run(v, n, steps)),
    ]
}

/// Runs a vCPU: what a CPU interface does with list registers, beside what the model says should happen.
fn run(gic: &mut Gic, model: &mut Model, vcpu: usize, room: usize, steps: [bool; 3]) {
    for acknowledges in steps {
        let mut lrs = [ListRegister::default(); 5];
        let flush = gic.fill(vcpu, &mut lrs[..room]);
        let lrs = &mut lrs[..room];
        let mut eoi_count = 0;
        if acknowledges {
            let limit = model.limit(vcpu);
            let best = lrs
                .iter_mut()
                .filter(|lr| lr.pending && !lr.active && (lr.priority as u16) < limit)
                .min_by_key(|lr| (lr.priority, lr.intid));
            let expected = model.next(vcpu, limit);
            assert_eq!(best.as_ref().map(|lr| lr.intid as usize), expected);
            if let Some(lr) = best {
                (lr.pending, lr.active) = (false, true);
                let n = lr.intid as usize;
                let irq = model.irq(vcpu, n);
                (irq.latch, irq.active) = (false, true);
                model.running[vcpu].push(n);
            }
        } else if let Some(n) = model.running[vcpu].pop() {
            model.irq(vcpu, n).active = false;
            match lrs.iter_mut().find(|lr| lr.active && lr.intid as usize == n) {
                Some(lr) => lr.active = false,
                None => {
                    assert!(flush.eoi_count, "the end of {n} goes unnoticed");
                    eoi_count = 1;
                }
            }
        }
        gic.drain(vcpu, lrs, eoi_count);
    }
}

/// Does it to both, and returns who is kicked.
fn apply(gic: &mut Gic, model: &mut Model, op: Op) -> Vcpus {
    let bit = |n: usize| ((n / 32 * 4) as u64, 1u64 << (n % 32));
    match op {
        Op::Line(_, n, _) if n < 16 => 0,
        Op::Line(v, n, level) => {
            let irq = model.irq(v, n);
            irq.latch |= irq.edge && level && !irq.line;
            irq.line = level;
            if n < 32 { gic.set_ppi(v, n as u32, level) } else { gic.set_line(n as u32, level) }
        }
        Op::Enable(v, n, enabled) => {
            model.irq(v, n).enabled = enabled;
            gic.write(v, D, if enabled { 0x100 } else { 0x180 } + bit(n).0, 4, bit(n).1)
        }
        Op::SetPending(v, n) => {
            model.irq(v, n).latch = true;
            match n {
                0..16 => gic.write(1 - v, D, 0xf00, 4, 1 << (16 + v) | n as u64),
                _ => gic.write(v, D, 0x200 + bit(n).0, 4, bit(n).1),
            }
        }
        Op::ClearPending(v, n) => {
            model.irq(v, n).latch = false;
            match n {
                0..16 => gic.write(v, D, 0xf10 + n as u64, 1, 0xff),
                _ => gic.write(v, D, 0x280 + bit(n).0, 4, bit(n).1),
            }
        }
        Op::Edge(_, n, _) if n < 16 => 0,
        Op::Edge(v, n, edge) => {
            model.irq(v, n).edge = edge;
            let at = 0xc00 + (n / 16 * 4) as u64;
            let old = gic.read(v, D, at, 4).0 & !(2 << (n % 16 * 2));
            gic.write(v, D, at, 4, old | (edge as u64) << (n % 16 * 2 + 1))
        }
        // The guest is not to change the priority of what is active: what it is at, the hardware remembers.
        Op::Priority(v, n, _) if model.get(v, n).active => 0,
        Op::Priority(v, n, priority) => {
            model.irq(v, n).priority = priority & 0xf8;
            gic.write(v, D, 0x400 + n as u64, 1, priority as u64)
        }
        Op::Target(n, v) if n >= 32 => {
            model.irq(0, n).target = v;
            gic.write(0, D, 0x800 + n as u64, 1, 1 << v)
        }
        Op::Target(..) => 0,
        Op::Run(v, room, steps) => {
            run(gic, model, v, room, steps);
            0
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn delivers_what_the_model_delivers(ops in prop::collection::vec(op(), 1..120)) {
        let mut gic = Gic::new(Version::V2, VCPUS);
        gic.write(0, D, 0, 4, 1);
        let mut model = Model { irqs: [[Irq::default(); 128]; VCPUS], running: Default::default() };
        for v in 0..VCPUS {
            (0..16).for_each(|n| (model.irqs[v][n].enabled, model.irqs[v][n].edge) = (true, true));
        }
        for op in ops {
            apply(&mut gic, &mut model, op);
            for v in 0..VCPUS {
                let best = model.next(v, 0x100).map(|n| model.get(v, n).priority);
                prop_assert_eq!(gic.wants(v), best.is_some());
                prop_assert_eq!(waiting(&gic, v).into_iter().map(|(_, priority)| priority).min(), best, "after {:?}", op);
                for n in INTIDS {
                    let word = (n / 32 * 4) as u64;
                    let at = |base| gic.read(v, D, base + word, 4).0 >> (n % 32) & 1 != 0;
                    let irq = model.get(v, n);
                    let state = (irq.enabled, irq.pending(), irq.active);
                    prop_assert_eq!((at(0x100), at(0x200), at(0x300)), state, "{} after {:?}", n, op);
                }
            }
        }
    }
}

/// What is here, pending and waiting for this vCPU.
fn waiting(gic: &Gic, vcpu: usize) -> Vec<(bool, u8)> {
    let mut all = Vec::new();
    gic.candidates(vcpu, |c| all.push((c.active, c.priority)));
    all.retain(|(active, _)| !active);
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    /// Both vCPUs run: whatever becomes deliverable to one is a reason to kick it, and no SPI is with both.
    #[test]
    fn whoever_could_get_an_interrupt_is_kicked(ops in prop::collection::vec((op(), any::<bool>()), 1..120)) {
        let mut gic = Gic::new(Version::V2, VCPUS);
        gic.write(0, D, 0, 4, 1);
        let mut lrs = [[ListRegister::default(); 2]; VCPUS];
        let mut model = Model { irqs: [[Irq::default(); 128]; VCPUS], running: Default::default() };
        let mut kicked = [true; VCPUS];
        for (op, hardware) in ops {
            let before: Vec<_> = (0..VCPUS).map(|v| waiting(&gic, v).len()).collect();
            let kick = match op {
                Op::Run(v, ..) => {
                    // The CPU interface may have done any of it.
                    for lr in lrs[v].iter_mut().filter(|lr| lr.pending || lr.active) {
                        (lr.pending, lr.active) = if hardware { (false, lr.pending) } else { (lr.pending, false) };
                    }
                    let kick = gic.drain(v, &lrs[v], 0);
                    lrs[v] = Default::default();
                    gic.fill(v, &mut lrs[v]);
                    kicked[v] = false;
                    prop_assert_eq!(kick >> v & 1, 0);
                    kick
                }
                _ => apply(&mut gic, &mut model, op),
            };
            for v in 0..VCPUS {
                kicked[v] |= kick >> v & 1 != 0;
                let own = matches!(op, Op::Run(of, ..) if of == v);
                prop_assert!(own || kicked[v] || waiting(&gic, v).len() <= before[v], "{:?} is not told to {}", op, v);
            }
            let spis = |v: usize| lrs[v].into_iter().filter(|lr: &ListRegister| lr.pending || lr.active).map(|lr| lr.intid);
            prop_assert!(!spis(0).any(|n| n >= 32 && spis(1).any(|m| m == n)));
        }
    }
}
