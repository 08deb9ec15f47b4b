//! The counter. Linux lets its programs read the virtual one only; the hypervisor gives its control domain one without offset, so
//! that it is the physical one, CNTPCT.

/// The counter's value.
pub fn now() -> u64 {
    #[cfg(target_arch = "aarch64")]
    {
        let now: u64;
        // SAFETY: it reads a register.
        unsafe { std::arch::asm!("isb", "mrs {}, cntvct_el0", out(reg) now, options(nostack, nomem)) };
        now
    }
    #[cfg(target_arch = "arm")]
    {
        let (low, high): (u32, u32);
        // SAFETY: it reads a register, CNTVCT.
        unsafe {
            std::arch::asm!("isb", "mrrc p15, 1, {}, {}, c14", out(reg) low, out(reg) high, options(nostack, nomem))
        };
        u64::from(high) << 32 | u64::from(low)
    }
}

/// Its ticks a second; 1 where the firmware left that out.
pub fn frequency() -> u64 {
    #[cfg(target_arch = "aarch64")]
    {
        let hertz: u64;
        // SAFETY: it reads a register.
        unsafe { std::arch::asm!("mrs {}, cntfrq_el0", out(reg) hertz, options(nostack, nomem)) };
        (hertz & 0xffff_ffff).max(1)
    }
    #[cfg(target_arch = "arm")]
    {
        let hertz: u32;
        // SAFETY: it reads a register, CNTFRQ.
        unsafe { std::arch::asm!("mrc p15, 0, {}, c14, c0, 0", out(reg) hertz, options(nostack, nomem)) };
        u64::from(hertz).max(1)
    }
}
