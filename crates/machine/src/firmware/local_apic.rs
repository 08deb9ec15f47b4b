//! How firmware leaves the boot processor's local APIC (MP 1.4, 3.6.2.2: virtual wire mode).

use irqchip::LocalApic;

/// Enabled, the 8259s' INTR through LINT0, NMI through LINT1: a kernel that only knows the 8259s gets their interrupts.
pub fn leave_local_apic(state: &mut x86::State) {
    // No timer runs yet, so its frequency doesn't matter.
    let mut apic = LocalApic::new(0, true, 1);
    apic.enter_virtual_wire_mode();
    let saved = apic.save(0);
    state.apic_base = saved.base;
    state.apic = saved.registers.to_vec();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lint0_takes_external_interrupts() {
        let mut s = x86::State::reset();
        leave_local_apic(&mut s);
        assert_eq!((s.apic.len(), s.apic[0x35], s.apic[0x36]), (64, 0x700, 0x400));
        assert_eq!((s.apic[0xf] & 0x100, s.apic_base), (0x100, 0xfee0_0900));
    }
}
