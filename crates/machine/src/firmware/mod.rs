//! What firmware leaves in memory for the operating system: of a PC ACPI and MP tables and the BIOS data area, of a virt board its device
//! tree.

pub mod acpi;
pub mod bios_data;
pub mod device_tree;
pub mod dsdt;
pub mod fadt;
pub mod local_apic;
pub mod madt;
pub mod mp_table;

pub use local_apic::leave_local_apic;

use crate::Result;
use memory::GuestMemory;

/// Writes everything of a PC; gives the address of the ACPI root pointer. The I/O APIC's id is [`io_apic_id`].
pub fn install(memory: &GuestMemory, vcpus: u32) -> Result<u64> {
    bios_data::install(memory)?;
    mp_table::install(memory, vcpus)?;
    acpi::install(memory, vcpus)
}

/// An id no local APIC has, while there are fewer than 15 of them (it has four bits).
pub fn io_apic_id(vcpus: u32) -> u8 {
    vcpus.min(15) as u8
}

/// Makes the bytes add up to zero by their byte at `at`, as ACPI and MP structures do.
fn seal(bytes: &mut [u8], at: usize) {
    bytes[at] = 0;
    let sum = bytes.iter().fold(0u8, |a, &b| a.wrapping_add(b));
    bytes[at] = sum.wrapping_neg();
}
