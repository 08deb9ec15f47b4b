//! EL2's registers while the control domain runs, and EL1's when it starts.

use address::HostPhys;
use arm::control::{hcr, physical_bits, sctlr, spsr, tcr, vtcr};
use hypercall::features;

use crate::control::Control;
use crate::image::Image;
use crate::per_cpu::PerCpu;
use crate::problem::Problem;

unsafe extern "C" {
    #[link_name = "enter_control"]
    fn enter(entry: u64, argument: u64, spsr: u64, stack: u64) -> !;
    static vectors: u8;
}

/// A field of an ID register.
fn field(register: u64, lowest_bit: u32) -> u64 {
    register >> lowest_bit & 0xf
}

fn parange() -> u64 {
    field(read_register!("id_aa64mmfr0_el1"), 0)
}

/// TCR_EL2: 48 bits, 4 KiB granule.
#[unsafe(no_mangle)]
pub extern "C" fn translation_control() -> u64 {
    tcr::TCR_EL2_RES1 | tcr::WALKS | parange().min(5) << tcr::PS_SHIFT | 16
}

/// Bits of the control domain's physical addresses: the processor's, but no more than 44 (16 TiB), to have few tables.
pub fn stage2_bits() -> u32 {
    physical_bits(parange()).min(44)
}

/// Bits of guests' physical addresses.
pub fn guest_bits() -> u32 {
    physical_bits(parange()).min(40)
}

/// VTCR_EL2 while a guest runs.
pub fn guest_vtcr() -> u64 {
    vtcr(guest_bits(), 1, parange())
}

/// What this processor can do for guests: bits of `hypercall::features` but the GIC's.
pub fn guest_features() -> u64 {
    let aarch32 = if field(read_register!("id_aa64pfr0_el1"), 4) == 2 { features::AARCH32 } else { 0 };
    let bits = guest_bits() as u64;
    features::AARCH64 | aarch32 | bits << features::ADDRESS_BITS_SHIFT
}

/// HCR_EL2 while the control domain runs: its interrupts are its own.
pub const CONTROL_HCR: u64 = hcr::VM | hcr::TSC | hcr::RW | hcr::API | hcr::APK | hcr::ATA;

/// CPTR_EL2 that traps nothing: its RES1 bits, but TZ and TSM, which exist with SVE and SME, zero.
pub fn open_cptr() -> u64 {
    let sve = field(read_register!("id_aa64pfr0_el1"), 32) != 0;
    let sme = field(read_register!("id_aa64pfr1_el1"), 24) != 0;
    0x33ff & !((sve as u64) << 8) & !((sme as u64) << 12)
}

/// MDCR_EL2 that gives EL1 every counter and buffer.
pub fn open_mdcr() -> u64 {
    let dfr = read_register!("id_aa64dfr0_el1");
    let counters = if matches!(field(dfr, 8), 1..=14) { read_register!("pmcr_el0") >> 11 & 0x1f } else { 0 };
    let profiling = if field(dfr, 32) != 0 { 0b11 << 12 } else { 0 };
    let trace = if field(dfr, 44) != 0 { 0b11 << 24 } else { 0 };
    counters | profiling | trace
}

/// Sets all of EL2 for the control domain on this processor.
fn control_registers(control: &Control) {
    let (mmfr0, mmfr1) = (read_register!("id_aa64mmfr0_el1"), read_register!("id_aa64mmfr1_el1"));
    let (midr, mpidr) = (read_register!("midr_el1"), read_register!("mpidr_el1"));
    let (pfr0, pfr1) = (read_register!("id_aa64pfr0_el1"), read_register!("id_aa64pfr1_el1"));
    // SAFETY: these are EL2's registers for what runs at EL1 and below, and none runs yet on this processor. Registers of extensions are
    // written where the ID registers say that they are there.
    unsafe {
        write_register!("vbar_el2", &raw const vectors as u64);
        write_register!("hcr_el2", CONTROL_HCR);
        write_register!("vtcr_el2", vtcr(control.stage2.bits, control.stage2.level, parange()));
        write_register!("vttbr_el2", control.stage2.root.0);
        core::arch::asm!("isb", "tlbi vmalls12e1", "dsb nsh", "isb", options(nostack));
        write_register!("cptr_el2", open_cptr());
        core::arch::asm!("isb", options(nostack));
        write_register!("mdcr_el2", open_mdcr());
        write_register!("hstr_el2", 0);
        write_register!("vpidr_el2", midr);
        write_register!("vmpidr_el2", mpidr);
        // EL1PCTEN, EL1PCEN: the physical counter and timer are the control domain's.
        write_register!("cnthctl_el2", 0b11);
        write_register!("cntvoff_el2", 0);
        write_register!("cntv_ctl_el0", 0);
        write_register!("cnthp_ctl_el2", 0);
        if field(pfr0, 32) != 0 {
            write_register!("s3_4_c1_c2_0", 0x1ff); // ZCR_EL2: every vector length.
        }
        if field(pfr1, 24) != 0 {
            write_register!("s3_4_c1_c2_6", 1 << 31 | 1 << 30 | 0x1ff); // SMCR_EL2: FA64, EZT0, every length.
        }
        if field(mmfr1, 40) != 0 {
            // HCRX_EL2: LD64B and ST64B, MOPS, TCR2_EL1, SCTLR2_EL1, GCS, FPMR are EL1's own.
            write_register!("s3_4_c1_c2_2", 0b111 | 1 << 11 | 1 << 14 | 1 << 15 | 1 << 22 | 1 << 23);
        }
        if field(mmfr0, 56) != 0 {
            // Fine-grained traps: none, which for the newer bits is a one.
            write_register!("s3_4_c1_c1_4", 0xfff4 << 48); // HFGRTR_EL2
            write_register!("s3_4_c1_c1_5", 0xfff4 << 48); // HFGWTR_EL2
            write_register!("s3_4_c1_c1_6", 0b11111 << 55); // HFGITR_EL2
            write_register!("s3_4_c3_c1_4", 0b1111 << 59); // HDFGRTR_EL2
            write_register!("s3_4_c3_c1_5", 0b111 << 60); // HDFGWTR_EL2
            if field(pfr0, 44) != 0 {
                write_register!("s3_4_c3_c1_6", 0); // HAFGRTR_EL2
            }
        }
        if field(pfr0, 40) != 0 {
            write_register!("s3_4_c10_c5_0", 0); // MPAM2_EL2
        }
        if control.gic == 3 {
            write_register!("s3_4_c12_c9_5", 0b1001); // ICC_SRE_EL2: EL1 has system registers, and says so itself.
            core::arch::asm!("isb", options(nostack));
            write_register!("s3_4_c12_c11_0", 0); // ICH_HCR_EL2
        }
        crate::board::start_guest_cpu();
        // EL1 as after a reset.
        write_register!("sctlr_el1", sctlr::EL1_RES1);
        write_register!("cntkctl_el1", 0);
        write_register!("cpacr_el1", 0);
        write_register!("tcr_el1", 0);
    }
}

/// Runs the control domain on this processor, from `entry` with `argument` in X0, at EL1.
pub fn enter_control(control: &Control, cpu: &PerCpu, entry: HostPhys, argument: u64) -> ! {
    control_registers(control);
    let stack = cpu.boot.stack.load(core::sync::atomic::Ordering::Relaxed);
    // SAFETY: EL2 is ready for exceptions from there, and stage 2 keeps it away from our memory. This stack's contents are done with.
    unsafe { enter(entry.0, argument, spsr::EL1H | spsr::DAIF, stack) }
}

/// Runs the control domain's kernel as Linux's boot protocol for arm64 has it: X0 is its device tree.
pub fn start_kernel(control: &Control, cpu: &PerCpu, kernel: HostPhys, tree: HostPhys) -> ! {
    enter_control(control, cpu, kernel, tree.0)
}

/// The control domain's kernel.
pub fn kernel_image(file: &[u8]) -> Result<Image, Problem> {
    Image::arm64(file)
}
