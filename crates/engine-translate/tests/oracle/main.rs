//! The host processor as oracle: random instruction sequences run natively, interpreted (T0) and translated (T1), and
//! everything a program can see is compared: registers, status flags (undefined ones too), x87 and vector state, memory,
//! exceptions. What T1 does not take it leaves to T0's handlers, so every class runs in both.
//!
//! `AUBERGE_ORACLE_SEED` and `AUBERGE_ORACLE_COUNT` (sequences a test) change the defaults. A failing sequence is shortened
//! and printed with the results.

mod catalogue;
mod descriptors;
mod generate;
mod native;
mod rng;
mod special;
mod state;
mod translated;
mod undefined;
mod values;

use catalogue::Class;
use descriptors::{Entry, pool};
use engine_translate::vendor::amd;
use generate::{Generator, Item, Sequence};
use iced_x86::{Code, Decoder, DecoderOptions, FastFormatter, Mnemonic, OpKind};
use native::Native;
use rng::Rng;
use state::{Ending, Outcome, differences};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use translated::{TIERS, Tier, Translated};

/// The processor and both tiers, with the same window.
struct Sides {
    base: u64,
    pool: Vec<Entry>,
    native: Native,
    tiers: [Translated; 3],
}

/// What a sequence came to.
struct Outcomes {
    native: Outcome,
    /// In [`TIERS`]' order.
    tiers: [Outcome; 3],
}

impl Outcomes {
    /// The first tier that isn't as the processor.
    fn wrong(&self) -> Option<(Tier, &Outcome)> {
        TIERS.into_iter().zip(&self.tiers).find(|(_, o)| **o != self.native)
    }
}

/// Each test has a window of its own, 2 MiB apart, all below 2 GiB.
fn new_base() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0x2000_0000);
    NEXT.fetch_add(0x20_0000, Ordering::Relaxed)
}

impl Sides {
    /// With segments other than Linux's flat ones if `segments`.
    fn new(bits: u32, segments: bool) -> Self {
        let base = new_base();
        let mut rng = Rng(7);
        let read_only: Vec<u8> = (0..0x200).flat_map(|_| values::scalar(&mut rng).to_le_bytes()).collect();
        let pool = if segments { pool(base, bits, &mut rng) } else { Vec::new() };
        let native = Native::new(base, &read_only, &pool);
        let tiers = TIERS.map(|tier| Translated::new(tier, base, &read_only, &pool));
        Self { base, native, tiers, pool }
    }

    /// All outcomes; `None` if the sequence can't be assembled or tells nothing.
    fn run(&mut self, s: &Sequence) -> Option<Outcomes> {
        let code = s.assemble()?;
        let native = self.native.run(&code, &s.start, &s.data);
        // Single-stepping isn't what is tested here.
        if matches!(native.ending, Ending::Exception { vector: 1, .. }) {
            return None;
        }
        // A wild address in the half that the host's system keeps to itself: mapped there, not here.
        if matches!(native.ending, Ending::Exception { vector: 14, address, .. } if address >> 47 != 0) {
            return None;
        }
        let mut tiers = self.tiers.each_mut().map(|t| t.run(&code, &s.start, &s.data));
        const STATUS: u64 = 0x8d5;
        for (tier, ours) in self.tiers.iter().zip(&mut tiers) {
            if !tier.exact_flags() && ours.ending != Ending::Ran {
                let flags = &mut ours.registers.rflags;
                *flags = *flags & !STATUS | native.registers.rflags & STATUS;
            }
            if !tier.exact_flags() && amd() {
                let undefined = undefined::follow(s);
                if undefined.read {
                    ours.clone_from(&native);
                }
                let flags = &mut ours.registers.rflags;
                *flags = *flags & !undefined.at_end | native.registers.rflags & undefined.at_end;
            }
        }
        // Whether bytes not selected may fault is the processor's choice (SDM 2B, "MASKMOVQ").
        let masked = |i: &Item| {
            matches!(
                i.instruction.mnemonic(),
                Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu | Mnemonic::Maskmovq
            )
        };
        if tiers.iter().any(|t| t.ending != native.ending) && s.items.iter().any(masked) {
            return None;
        }
        if tiers.iter().any(|t| sets_misaligned_mode(&code, s, &native, t)) {
            return None;
        }
        for ours in &mut tiers {
            tolerate(&code, s, &native, ours);
            if tolerate_pointers(s, &native, ours) {
                return None;
            }
        }
        Some(Outcomes { native, tiers })
    }

    /// The first tier that a sequence goes wrong in.
    fn wrong(&mut self, s: &Sequence) -> Option<Tier> {
        self.run(s)?.wrong().map(|(tier, _)| tier)
    }

    /// The shortest sequence that still fails, by leaving out instructions.
    fn shorten(&mut self, mut s: Sequence) -> Sequence {
        let tier = self.wrong(&s);
        let mut n = 0;
        while n < s.items.len() && s.items.len() > 1 {
            let mut shorter = s.clone();
            shorter.items.remove(n);
            if self.wrong(&shorter) == tier { s = shorter } else { n += 1 }
        }
        s
    }

    fn report(&mut self, s: &Sequence) -> String {
        let code = s.assemble().unwrap_or_default();
        let mut text = String::new();
        let mut decoder = Decoder::with_ip(s.bits, &code, s.start.rip, DecoderOptions::NONE);
        let mut formatter = FastFormatter::new();
        while decoder.can_decode() {
            let at = decoder.position();
            let i = decoder.decode();
            let bytes: Vec<String> =
                code[at..decoder.position()].iter().map(|b| format!("{b:02x}")).collect();
            text += &format!("{:#x} {:32} ", i.ip(), bytes.join(" "));
            formatter.format(&i, &mut text);
            text += &format!("   ({:?})\n", i.code());
        }
        if let Some(outcomes) = self.run(s)
            && let Some((tier, ours)) = outcomes.wrong()
        {
            text += &differences(&s.start, &s.data, &outcomes.native, tier, ours);
        }
        text
    }
}

/// What processors do differently, and the manual leaves open: ours becomes the host's.
fn tolerate(code: &[u8], s: &Sequence, native: &Outcome, ours: &mut Outcome) {
    use Mnemonic::*;
    let (Ending::Exception { vector, .. }, Ending::Exception { vector: our_vector, .. }) =
        (native.ending, ours.ending)
    else {
        return;
    };
    // Whether an access across 4 GiB exceeds a limit of 4 GiB is the processor's choice (SDM 3A 5.3): AMD's say yes.
    let across =
        matches!(ours.ending, Ending::Exception { vector: 14, address: 0xffff_fff0..=0xffff_ffff, .. });
    if amd() && s.bits == 32 && across && matches!(vector, 12 | 13) {
        ours.ending = native.ending;
        return tolerate(code, s, native, ours);
    }
    let page = |e: Ending| match e {
        Ending::Exception { code, address, .. } => (code, address >> 12),
        Ending::Ran => (0, 0),
    };
    let at = native.registers.rip.wrapping_sub(s.start.rip) as usize;
    let Some(code) = code.get(at..) else { return };
    if vector != our_vector || native.registers.rip != ours.registers.rip {
        return;
    }
    let i = Decoder::with_ip(s.bits, code, native.registers.rip, DecoderOptions::NONE).decode();
    let (n, o) = (&native.registers.xsave, &mut ours.registers.xsave);
    if vector == 19 {
        let unmasked = !(n[24] as u16 | (n[25] as u16) << 8) >> 7 & n[24] as u16;
        // With overflow or underflow unmasked, PE tells of a rounding that the masked instruction doesn't make.
        if unmasked & 0x18 != 0 {
            o[24] = o[24] & !0x20 | n[24] & 0x20;
        }
        // Several steps, of which those behind the first exception aren't made.
        if matches!(i.mnemonic(), Dpps | Dppd | Vdpps | Vdppd) {
            o[24] = n[24];
        }
    }
    match i.mnemonic() {
        // What of the frame pointers is copied before a fault.
        Enter => ours.data.clone_from(&native.data),
        // Which registers are loaded before a fault.
        Popa | Popad => ours.registers.gpr = native.registers.gpr,
        _ => {}
    }
    if vector != 14 {
        return;
    }
    match i.mnemonic() {
        // Which of the selected elements is complained of.
        Maskmovdqu | Vmaskmovdqu | Maskmovq | Vmaskmovps | Vmaskmovpd | Vpmaskmovd | Vpmaskmovq => {
            ours.ending = native.ending
        }
        Fldenv | Frstor if page(native.ending) == page(ours.ending) => ours.ending = native.ending,
        // Stores in several parts, the first of which may have happened.
        Fbstp | Fnsave | Fnstenv | Fstp => {
            ours.data.clone_from(&native.data);
            if page(native.ending) == page(ours.ending) {
                ours.ending = native.ending;
            }
        }
        _ => {}
    }
    // An MMX store that faults has the x87 state in MMX form already on some processors.
    if i.op0_kind() == OpKind::Memory && i.op1_register().is_mm() || i.mnemonic() == Maskmovq {
        o[..24].copy_from_slice(&n[..24]);
        o[32..160].copy_from_slice(&n[32..160]);
    }
}

/// Whether ours refuses an MXCSR with AMD's MM bit (APM 1 4.2.2), which guests are not told of, and the processor takes it.
fn sets_misaligned_mode(code: &[u8], s: &Sequence, native: &Outcome, ours: &Outcome) -> bool {
    // CPUID.8000_0001H:ECX.MisAlignSse.
    let have = amd() && std::arch::x86_64::__cpuid(0x8000_0001).ecx & 1 << 7 != 0;
    let refused = matches!(ours.ending, Ending::Exception { vector: 13, .. });
    let at = ours.registers.rip.wrapping_sub(s.start.rip) as usize;
    let Some(code) = code.get(at..).filter(|_| have && refused && ours.ending != native.ending) else {
        return false;
    };
    let i = Decoder::with_ip(s.bits, code, ours.registers.rip, DecoderOptions::NONE).decode();
    matches!(i.mnemonic(), Mnemonic::Ldmxcsr | Mnemonic::Vldmxcsr)
}

/// FOP, FIP and FDP: cleared, as AMD's processors do, where no exception can be pending. Whether the sequence tells nothing:
/// it went another way, and an instruction may have loaded what another stored of them.
fn tolerate_pointers(s: &Sequence, native: &Outcome, ours: &mut Outcome) -> bool {
    use Mnemonic::*;
    let (n, o) = (&native.registers.xsave, &mut ours.registers.xsave);
    // Linux saves the native side's by XSAVE, which AMD's processors leave them out of where no exception is pending (APM 5
    // "FXSAVE"): there is nothing to compare with.
    let pending = n[2] & 0x80 != 0;
    for field in [6..8, 8..16, 16..24] {
        if amd() && !pending || o[field.clone()].iter().all(|b| *b == 0) {
            o[field.clone()].copy_from_slice(&n[field]);
        }
    }
    let stores = |i: &Item| matches!(i.instruction.mnemonic(), Fnstenv | Fnsave);
    let stored = s.items.iter().filter(|i| stores(i)).count();
    // AMD's processors keep FCS and FDS, too, as they don't say otherwise in CPUID.07H:EBX bit 13.
    let bytes = if amd() { 14 } else { 10 };
    let differ: Vec<usize> = (0..ours.data.len()).filter(|at| ours.data[*at] != native.data[*at]).collect();
    let cleared = differ.iter().filter(|at| ours.data[**at] == 0).count();
    if differ.len() <= bytes * stored && cleared == differ.len() {
        ours.data.clone_from(&native.data);
    }
    let memory = |i: &Item| (0..i.instruction.op_count()).any(|n| i.instruction.op_kind(n) == OpKind::Memory);
    *ours != *native && cleared != 0 && s.items.iter().skip_while(|i| !stores(i)).skip(1).any(memory)
}

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(v) => {
            let parsed = v.strip_prefix("0x").map_or(v.parse().ok(), |h| u64::from_str_radix(h, 16).ok());
            parsed.unwrap_or_else(|| panic!("{name}={v} is not a number"))
        }
        Err(_) => default,
    }
}

/// Runs `default` sequences (or as many as the environment says) of a class.
fn compare(class: Class, bits: u32, default: u64) {
    compare_with(class, bits, false, default);
}

/// The same, with segments from the LDT if `segments`.
fn compare_with(class: Class, bits: u32, segments: bool, default: u64) {
    let seed = setting("AUBERGE_ORACLE_SEED", 0xa0be_49e5);
    let count = setting("AUBERGE_ORACLE_COUNT", default);
    let mut sides = Sides::new(bits, segments);
    let mut generator = Generator::new(class, bits, sides.base, sides.pool.clone());
    let mut rng = Rng(seed ^ (class as u64) << 40 ^ (bits as u64) << 48 ^ (segments as u64) << 56);
    let all: Vec<Code> = generator.codes().to_vec();
    let (mut done, mut attempts, mut instructions, mut faults) = (0u64, 0u64, 0u64, 0u64);
    let mut made: BTreeMap<String, u64> = all.iter().map(|c| (format!("{c:?}"), 0)).collect();
    let mut failures: BTreeMap<String, (u64, Sequence)> = BTreeMap::new();
    while done < count && attempts < count * 20 {
        let code = all[attempts as usize % all.len()];
        attempts += 1;
        let Some(s) = generator.sequence(&mut rng, code) else { continue };
        let Some(outcomes) = sides.run(&s) else { continue };
        done += 1;
        instructions += s.items.len() as u64;
        *made.entry(format!("{code:?}")).or_default() += 1;
        faults += (outcomes.native.ending != Ending::Ran) as u64;
        if let Some((tier, _)) = outcomes.wrong() {
            let short = sides.shorten(s);
            let last = short.items.last().map_or(Code::INVALID, |i| i.instruction.code());
            let name = format!("{tier:?} {last:?}");
            failures.entry(name).or_insert((0, short)).0 += 1;
        }
    }
    let never: Vec<&String> = made.iter().filter(|(_, n)| **n == 0).map(|(c, _)| c).collect();
    println!(
        "{class:?}, {bits} bits, segments {segments}, seed {seed:#x}: {done} sequences, {instructions} instructions of {} kinds, {faults} faults",
        all.len() - never.len()
    );
    if !never.is_empty() {
        println!("never made: {never:?}");
    }
    let limit = setting("AUBERGE_ORACLE_REPORTS", 20) as usize;
    for (name, (n, s)) in failures.iter().take(limit) {
        println!("\n{n} failures like this one ({name}):\n{}", sides.report(s));
    }
    let names: Vec<String> = failures.iter().map(|(name, (n, _))| format!("{name} {n}")).collect();
    assert!(failures.is_empty(), "seed {seed:#x}: {} kinds of failures: {}", names.len(), names.join(", "));
    assert!(done >= count, "only {done} sequences out of {attempts} attempts");
}

#[test]
fn integer_64_bit_code_matches_the_processor() {
    compare(Class::Integer, 64, 40_000);
}

#[test]
fn integer_32_bit_code_matches_the_processor() {
    compare(Class::Integer, 32, 20_000);
}

#[test]
fn segmented_16_bit_code_matches_the_processor() {
    compare_with(Class::Integer, 16, true, 12_000);
}

#[test]
fn segmented_32_bit_code_matches_the_processor() {
    compare_with(Class::Integer, 32, true, 8_000);
}

#[test]
fn x87_matches_the_processor() {
    compare(Class::X87, 64, 20_000);
}

#[test]
fn sse_matches_the_processor() {
    compare(Class::Sse, 64, 30_000);
}

#[test]
fn avx_matches_the_processor() {
    compare(Class::Avx, 64, 30_000);
}

#[test]
fn x87_in_32_bit_code_matches_the_processor() {
    compare(Class::X87, 32, 10_000);
}

#[test]
fn sse_in_32_bit_code_matches_the_processor() {
    compare(Class::Sse, 32, 12_000);
}

#[test]
fn avx_in_32_bit_code_matches_the_processor() {
    compare(Class::Avx, 32, 12_000);
}
