//! CPUID: what this engine does by itself, and of what it runs natively, what the host has (SDM 2, CPUID; APM 3 appendix E).

use crate::cpu::{Cpu, RAX, RBX, RCX, RDX};
use crate::fault::Guest;
use crate::op::Op;
use crate::paging::PHYSICAL_BITS;
use crate::vector::host_features;
use crate::vendor::amd;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use irqchip::local_apic::TIMER_KHZ;
use x86::Cr4;

/// The registers of one leaf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

const MAX_BASIC: u32 = 0x16;
const MAX_EXTENDED: u32 = 0x8000_0008;
/// The same on AMD.
const MAX_AMD: u32 = 0x8000_0021;
const HYPERVISOR: u32 = 0x4000_0000;
const MAX_HYPERVISOR: u32 = 0x4000_0010;

/// Bits in a word.
const fn bits<const N: usize>(list: [u32; N]) -> u32 {
    let mut word = 0;
    let mut i = 0;
    while i < N {
        word |= 1 << list[i];
        i += 1;
    }
    word
}

/// Leaf 1 EDX, all of it this engine's own work or baseline: FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE-36 CLFSH MMX
/// FXSR SSE SSE2 SS.
const FEATURES_1_EDX: u32 =
    bits([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26, 27]);
/// Leaf 1 ECX, emulated: CX16 PCID x2APIC TSC-deadline hypervisor.
const FEATURES_1_ECX: u32 = bits([13, 17, 21, 24, 31]);
/// Leaf 1 ECX, where the host has them: MOVBE POPCNT RDRAND.
const HOST_1_ECX: u32 = bits([22, 23, 30]);
/// Leaf 7 EBX, emulated: FSGSBASE TSC_ADJUST SMEP ERMS INVPCID SMAP; and FCS/FDS deprecated.
const FEATURES_7_EBX: u32 = bits([0, 1, 7, 9, 10, 13, 20]);
/// Leaf 7 EBX, where the host has them: BMI1 BMI2 RDSEED ADX CLFLUSHOPT CLWB.
const HOST_7_EBX: u32 = bits([3, 8, 18, 19, 23, 24]);
/// Leaf 7 ECX, emulated: UMIP RDPID.
const FEATURES_7_ECX: u32 = bits([2, 22]);
/// Leaf 7 EDX: FSRM SPEC_CTRL ARCH_CAPABILITIES.
const FEATURES_7_EDX: u32 = bits([4, 26, 29]);
/// Leaf 7.2 EDX: BHI_CTRL. Linux takes this for branch history, and else clears it in software at every system call, with
/// branches that a translator makes other branches of.
const FEATURES_72_EDX: u32 = bits([4]);
/// Leaf 8000_0001H ECX: LAHF.
const FEATURES_81_ECX: u32 = bits([0]);
/// Where the host has them: LZCNT PREFETCHW.
const HOST_81_ECX: u32 = bits([5, 8]);
/// Leaf 8000_0001H EDX: SYSCALL NX 1 GiB pages RDTSCP LM.
const FEATURES_81_EDX: u32 = bits([11, 20, 26, 27, 29]);
/// On AMD, leaf 8000_0021H EAX: null selectors clear the base; and safe from speculative return stack overflow, which Linux
/// warns of else where it doesn't find new microcode. What kernels do against that (returns by thunks), and against what ECX says (VERW on
/// every way to a program), acts on the processor that executes it. Here a guest's returns are translated, and all of a guest is one program of
/// the host's, whose kernel sees to what leaves that.
const FEATURES_821_EAX: u32 = bits([6, 29]);
/// ECX: and from transient scheduler attacks, on the store queue and the L1 cache.
const FEATURES_821_ECX: u32 = bits([1, 2]);
/// On AMD, leaf 8000_0001H EDX repeats these of leaf 1.
const AMD_REPEATED: u32 = 0x0183_f3ff;
/// KVM_FEATURE_CLOCKSOURCE, NOP_IO_DELAY, CLOCKSOURCE2, CLOCKSOURCE_STABLE_BIT.
const KVM_FEATURES: u32 = bits([0, 1, 3, 24]);

fn host(leaf: u32, subleaf: u32) -> Leaf {
    let max = __cpuid(leaf & 0x8000_0000).eax;
    if leaf > max {
        return Leaf::default();
    }
    let l = __cpuid_count(leaf, subleaf);
    Leaf { eax: l.eax, ebx: l.ebx, ecx: l.ecx, edx: l.edx }
}

/// Family, model and stepping, as leaf 1 gives them in EAX and INIT in EDX.
pub(super) fn signature() -> u32 {
    host(1, 0).eax
}

/// What the answer depends on beside the host.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    pub apic_id: u32,
    pub vcpus: u32,
    pub tsc_khz: u64,
    pub cr4: Cr4,
    pub xcr0: u64,
    /// The APIC isn't disabled by IA32_APIC_BASE.
    pub apic_enabled: bool,
}

/// CPUID.
pub(super) fn cpuid(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    let (leaf, subleaf) = (cpu.regs[RAX] as u32, cpu.regs[RCX] as u32);
    let asker = Asker {
        apic_id: cpu.id,
        vcpus: cpu.shared.vcpus,
        tsc_khz: cpu.shared.tsc_khz,
        cr4: cpu.cr4,
        xcr0: cpu.vector.xcr0,
        apic_enabled: cpu.sys.apic_enabled,
    };
    let l = answer(&asker, leaf, subleaf);
    cpu.regs[RAX] = l.eax as u64;
    cpu.regs[RBX] = l.ebx as u64;
    cpu.regs[RCX] = l.ecx as u64;
    cpu.regs[RDX] = l.edx as u64;
    Ok(())
}

/// One leaf.
pub fn answer(asker: &Asker, leaf: u32, subleaf: u32) -> Leaf {
    match leaf {
        0 => Leaf { eax: MAX_BASIC, ..host(0, 0) },
        1 => leaf1(asker),
        // Descriptor "see leaf 4".
        2 => Leaf { eax: 0x00ff_ff01, ..Leaf::default() },
        4 => cache(asker, host(4, subleaf)),
        // ARAT: the APIC timer never stops.
        6 => Leaf { eax: 1 << 2, ..Leaf::default() },
        7 if subleaf == 0 => leaf7(),
        7 if subleaf == 1 => Leaf { eax: (host_features().avx_vnni as u32) << 4, ..Leaf::default() },
        7 if subleaf == 2 => Leaf { edx: FEATURES_72_EDX, ..Leaf::default() },
        0xb => topology(asker, subleaf),
        0xd => xsave(asker, subleaf),
        0x15 => tsc_ratio(asker.tsc_khz),
        0x16 => {
            let mhz = (asker.tsc_khz / 1000).min(0xffff) as u32;
            Leaf { eax: mhz, ebx: mhz, ecx: 100, edx: 0 }
        }
        // "KVMKVMKVM"
        HYPERVISOR => Leaf { eax: MAX_HYPERVISOR, ebx: 0x4b4d_564b, ecx: 0x564b_4d56, edx: 0x4d },
        0x4000_0001 => Leaf { eax: KVM_FEATURES, ..Leaf::default() },
        MAX_HYPERVISOR => Leaf { eax: asker.tsc_khz as u32, ebx: TIMER_KHZ as u32, ..Leaf::default() },
        0x8000_0000 => {
            let max = if amd() { MAX_AMD } else { MAX_EXTENDED };
            Leaf { eax: max, ..host(0x8000_0000, 0) }
        }
        0x8000_0001 => extended_features(asker),
        0x8000_0002..=0x8000_0004 => host(leaf, 0),
        0x8000_0005 | 0x8000_0006 => host(leaf, 0),
        // The TSC is invariant.
        0x8000_0007 => Leaf { edx: 1 << 8, ..Leaf::default() },
        0x8000_0008 => addresses(asker),
        0x8000_001d if amd() => cache(asker, host(leaf, subleaf)),
        0x8000_001e if amd() => Leaf { eax: asker.apic_id, ebx: asker.apic_id & 0xff, ..Leaf::default() },
        MAX_AMD if amd() => Leaf { eax: FEATURES_821_EAX, ecx: FEATURES_821_ECX, ..Leaf::default() },
        _ => Leaf::default(),
    }
}

fn leaf1(asker: &Asker) -> Leaf {
    let h = host(1, 0);
    let f = host_features();
    let mut ecx = FEATURES_1_ECX | h.ecx & HOST_1_ECX;
    for (have, bit) in [
        (f.sse3, 0),
        (f.pclmulqdq, 1),
        (f.ssse3, 9),
        (f.fma, 12),
        (f.sse4_1, 19),
        (f.sse4_2, 20),
        (f.aes, 25),
        (f.xsave, 26),
        (asker.cr4.contains(Cr4::OSXSAVE), 27),
        (f.avx, 28),
        (f.f16c, 29),
    ] {
        ecx |= (have as u32) << bit;
    }
    let mut edx = FEATURES_1_EDX | ((asker.vcpus > 1) as u32) << 28;
    if !asker.apic_enabled {
        edx &= !(1 << 9);
    }
    // APIC id, logical processors, CLFLUSH line of 8 quadwords.
    let ebx = (asker.apic_id & 0xff) << 24 | asker.vcpus.min(255) << 16 | 8 << 8;
    Leaf { eax: h.eax, ebx, ecx, edx }
}

fn leaf7() -> Leaf {
    let h = host(7, 0);
    let f = host_features();
    let ebx = FEATURES_7_EBX
        | h.ebx & HOST_7_EBX
        | (f.avx2 as u32) << 5
        | (f.fdp_exception_only as u32) << 6
        | (f.sha as u32) << 29;
    let ecx = FEATURES_7_ECX | (f.gfni as u32) << 8 | (f.vaes as u32) << 9 | (f.vpclmulqdq as u32) << 10;
    Leaf { eax: 2, ebx, ecx, edx: FEATURES_7_EDX }
}

/// Cache parameters: the host's, with nobody sharing but a last level for all.
fn cache(asker: &Asker, h: Leaf) -> Leaf {
    if h.eax & 0x1f == 0 {
        return h;
    }
    let level = h.eax >> 5 & 7;
    let sharing = if level >= 3 { asker.vcpus - 1 } else { 0 };
    let cores = if amd() { 0 } else { (asker.vcpus.next_power_of_two() - 1).min(63) };
    Leaf { eax: h.eax & 0x3fff | sharing.min(0xfff) << 14 | cores << 26, ..h }
}

/// Extended topology (leaf BH): a package of cores with one thread each.
fn topology(asker: &Asker, subleaf: u32) -> Leaf {
    let (shift, count, kind) = match subleaf {
        0 => (0, 1, 1),
        1 => (asker.vcpus.next_power_of_two().trailing_zeros(), asker.vcpus, 2),
        _ => (0, 0, 0),
    };
    Leaf { eax: shift, ebx: count, ecx: kind << 8 | subleaf & 0xff, edx: asker.apic_id }
}

/// Sizes of XSAVE's area (SDM 1 13.2), standard format.
fn xsave(asker: &Asker, subleaf: u32) -> Leaf {
    let f = host_features();
    let size = |mask: u64| if mask & 4 != 0 { 832 } else { 576 };
    match subleaf {
        0 => Leaf { eax: f.xcr0 as u32, ebx: size(asker.xcr0), ecx: size(f.xcr0), edx: 0 },
        1 => Leaf { eax: f.xsaveopt as u32, ..Leaf::default() },
        2 if f.xcr0 & 4 != 0 => Leaf { eax: 256, ebx: 576, ..Leaf::default() },
        _ => Leaf::default(),
    }
}

/// TSC = crystal * EBX / EAX, the crystal being the APIC timer's clock. Kernels multiply in 32 bits, so EBX stays small.
fn tsc_ratio(tsc_khz: u64) -> Leaf {
    let (mut a, mut b) = (tsc_khz, TIMER_KHZ);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    let (mut numerator, mut denominator) = (tsc_khz / a.max(1), TIMER_KHZ / a.max(1));
    if numerator * TIMER_KHZ > u32::MAX as u64 {
        let most = u32::MAX as u64 / TIMER_KHZ;
        denominator = (most * TIMER_KHZ / tsc_khz).clamp(1, TIMER_KHZ / 1000);
        numerator = ((tsc_khz * denominator + TIMER_KHZ / 2) / TIMER_KHZ).clamp(1, most);
    }
    Leaf { eax: denominator as u32, ebx: numerator as u32, ecx: (TIMER_KHZ * 1000) as u32, edx: 0 }
}

fn extended_features(asker: &Asker) -> Leaf {
    let h = host(0x8000_0001, 0);
    let mut edx = FEATURES_81_EDX;
    let mut ecx = FEATURES_81_ECX | h.ecx & HOST_81_ECX;
    if amd() {
        edx |= FEATURES_1_EDX & AMD_REPEATED;
        // CmpLegacy and topology extensions.
        ecx |= ((asker.vcpus > 1) as u32) << 1 | 1 << 22;
    }
    Leaf { eax: if amd() { h.eax } else { 0 }, ebx: 0, ecx, edx }
}

fn addresses(asker: &Asker) -> Leaf {
    let eax = 48 << 8 | PHYSICAL_BITS as u32;
    if !amd() {
        return Leaf { eax, ..Leaf::default() };
    }
    let id_size = asker.vcpus.next_power_of_two().trailing_zeros();
    // x87's pointers are always restored; IBPB, IBRS, STIBP, always-on IBRS, and safe from branch type confusion.
    let ebx = bits([2, 12, 14, 15, 16, 29]);
    Leaf { eax, ebx, ecx: id_size << 12 | (asker.vcpus - 1) & 0xff, edx: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(vcpus: u32, apic_id: u32) -> Asker {
        Asker { apic_id, vcpus, tsc_khz: 2_100_000, cr4: Cr4::empty(), xcr0: 1, apic_enabled: true }
    }

    #[test]
    fn answer_never_offers_what_is_not_done() {
        let a = asker(2, 1);
        let (one, seven, ext) = (answer(&a, 1, 0), answer(&a, 7, 0), answer(&a, 0x8000_0001, 0));
        // MONITOR, VMX, SMX, OSXSAVE while CR4 says no.
        assert_eq!(one.ecx & bits([3, 5, 6, 27]), 0);
        // HLE, RTM, MPX, AVX-512, CET, PKU, AMX.
        assert_eq!(seven.ebx & bits([4, 11, 14, 16, 17, 21, 26, 27, 28, 30, 31]), 0);
        assert_eq!(seven.ecx & bits([1, 3, 4, 7, 11, 12, 14, 16]), 0);
        assert_eq!(seven.edx & bits([2, 3, 20, 22, 23, 24, 25]), 0);
        // SVM, XOP, FMA4, 3DNow!.
        assert_eq!(ext.ecx & bits([2, 6, 11, 16]), 0);
        assert_eq!(ext.edx & bits([30, 31]), 0);
        let on = Asker { cr4: Cr4::OSXSAVE, ..a };
        assert_ne!(answer(&on, 1, 0).ecx & 1 << 27, 0);
    }

    #[test]
    fn answer_about_topology_is_consistent() {
        for vcpus in [1, 2, 3, 8, 255] {
            let a = asker(vcpus, vcpus - 1);
            let core = answer(&a, 0xb, 1);
            assert!(1 << core.eax >= vcpus && core.ebx == vcpus && core.edx == vcpus - 1);
            assert_eq!(answer(&a, 0xb, 0).ebx, 1);
            assert_eq!(answer(&a, 0xb, 2).ecx >> 8, 0);
            assert_eq!(answer(&a, 1, 0).ebx >> 24, vcpus - 1);
        }
    }

    #[test]
    fn answer_about_tsc_multiplies_to_its_frequency() {
        for khz in [1_000_000, 2_100_000, 2_099_998, 3_333_333, 4_800_001] {
            let l = answer(&Asker { tsc_khz: khz, ..asker(1, 0) }, 0x15, 0);
            let crystal_khz = l.ecx / 1000;
            let product = crystal_khz.checked_mul(l.ebx).expect("kernels multiply in 32 bits");
            assert!((product as u64 / l.eax as u64).abs_diff(khz) <= 500, "{khz}: {l:?}");
            assert_eq!(answer(&Asker { tsc_khz: khz, ..asker(1, 0) }, MAX_HYPERVISOR, 0).eax as u64, khz);
        }
    }

    #[test]
    fn answer_beyond_the_last_leaf_is_zero() {
        let a = asker(1, 0);
        for leaf in [0x17, 0x1f, 0x4000_0100, 0x8000_0022, 0xffff_ffff] {
            assert_eq!(answer(&a, leaf, 0), Leaf::default());
        }
    }
}
